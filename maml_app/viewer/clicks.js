/** Clicks that mend the label: one adds what belongs together around it, with Shift it takes away. */

import { ask } from './server.js';
import { fill } from './slices.js';

const STILL_PX = 4; // a mouse that moves further drags, and does not click

export class Clicks {
  constructor(app) {
    this.app = app;
    this.pressed = null;
    this.of = new Map(); // label value -> its clicks since the drawing began
    this.base = null;
  }

  /** The mouse went down: perhaps a click begins. */
  down(event) {
    this.pressed = event.button === 0 ? [event.clientX, event.clientY] : null;
  }

  /** It went up: at the same place in a viewport it was a click. */
  up(event) {
    const still =
      this.pressed && Math.hypot(event.clientX - this.pressed[0], event.clientY - this.pressed[1]) < STILL_PX;
    const place = still && this.app.drawing.tool === 'Click' ? this.app.viewer.placeAt(event) : null;
    this.pressed = null;
    if (place) {
      void this.app.guarded(() => this.click(place, !event.shiftKey), true);
    }
  }

  /** Mend the label that is chosen at a place (LPS, mm); before there is a drawing, it begins on the active series. */
  async click(place, inside) {
    const { work, viewer, box, task, tell } = this.app;
    if (!work.planes()) {
      await this.app.cases.startEmpty();
    }
    if (this.base !== work.base) {
      this.base = work.base;
      this.of.clear();
    }
    const value = box.labels.chosen;
    const { name } = task.labels.find(label => label.value === value);
    const clicks = [...(this.of.get(value) || []), { place, inside }];
    tell(inside ? 'Adding …' : 'Taking away …');
    const form = work.form().body;
    const sent = clicks.map(({ place: at, inside: adds }) => ({ place: at, inside: adds }));
    form.set('params', JSON.stringify({ label: name, clicks: sent }));
    this.app.cases.running = new AbortController();
    const { signal } = this.app.cases.running;
    const answer = await ask(`/maml/series/${work.editing}/correct`, { method: 'POST', body: form, signal });
    const voxels = new Uint8Array(await answer.arrayBuffer());
    const info = await work.info(work.editing);
    const planes = work.planes();
    await work.quietly(async () => {
      fill(planes, voxels, info.slices);
      viewer.changed(work.editing);
    });
    if (work.steps.take(planes).length) {
      clicks[clicks.length - 1].steps = work.steps.done.length;
      this.of.set(value, clicks);
      work.touch();
      await work.load(await work.nameNow(), work.editing); // the other series show it too
    }
    const [gained, lost] = ['X-Gained-Ml', 'X-Lost-Ml'].map(header => answer.headers.get(header));
    tell(`${name}: ${gained} ml added, ${lost} ml taken away. Ctrl+Z takes the click back.`, 'success');
  }

  /** A step was undone: clicks that came after what is left no longer count. */
  undone() {
    const { length } = this.app.work.steps.done;
    this.of.forEach((clicks, value) =>
      this.of.set(
        value,
        clicks.filter(click => click.steps <= length),
      ),
    );
  }
}
