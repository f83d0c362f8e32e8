/** Clicks and scribbles that mend the label: one adds what belongs together around it, with Shift it takes away. */

import { ask } from './server.js';
import { PROMPTS } from './ohif.js';
import { thinned } from './shapes.js';
import { fill } from './slices.js';

const STILL_PX = 4; // a mouse that moves further drags, and does not click
const STEP_PX = 2; // of a scribble, from point to point at least
const MOST_POINTS = 100; // points of a scribble that are sent
const OVER_ALL = 'position:fixed;inset:0;width:100%;height:100%;pointer-events:none;z-index:1000';
const SVG = 'http://www.w3.org/2000/svg';
const COLOUR = { true: 'rgb(60, 220, 90)', false: 'rgb(255, 70, 70)' }; // adds, takes away

export class Prompts {
  constructor(app) {
    this.app = app;
    this.drawn = null; // what the mouse draws: the path so far, in the patient and on the screen
    this.of = new Map(); // label value -> its prompts since the drawing began
    this.base = null;
  }

  /** The mouse went down: perhaps a click or scribble begins. */
  down(event) {
    const { drawing, viewer, busy } = this.app;
    this.drop();
    const found = event.button === 0 && !busy ? viewer.placeAt(event) : null;
    if (!found || !PROMPTS.includes(drawing.tool)) {
      return;
    }
    const { viewportId, place } = found;
    const [slice] = viewer.slicesAt(viewportId);
    this.drawn = { viewportId, slice, path: [place], screen: [[event.clientX, event.clientY]], adds: !event.shiftKey };
    if (drawing.tool === 'Scribble') {
      event.preventDefault(); // no mouse events follow: the viewer's own tools see nothing of it
      viewer.activate(viewportId);
      this.line = line(COLOUR[this.drawn.adds]);
    }
  }

  move(event) {
    const found = this.line ? this.app.viewer.placeAt(event) : null;
    const [x, y] = found ? this.drawn.screen.at(-1) : [];
    const far = Math.hypot(event.clientX - x, event.clientY - y) >= STEP_PX;
    if (far && found.viewportId === this.drawn.viewportId) {
      this.drawn.path.push(found.place);
      this.drawn.screen.push([event.clientX, event.clientY]);
      this.line.firstChild.setAttribute('points', this.drawn.screen.join(' '));
    }
  }

  /** It went up: what was drawn is a prompt; with the tool Click only at the same place. */
  up(event) {
    const { drawn, line: scribbles } = this;
    this.drop();
    if (!drawn || event.button !== 0) {
      return;
    }
    const [x, y] = drawn.screen[0];
    const still = Math.hypot(event.clientX - x, event.clientY - y) < STILL_PX;
    // a slice that was scrolled away meanwhile has none of it
    if ((scribbles || still) && this.app.viewer.slicesAt(drawn.viewportId)[0] === drawn.slice) {
      void this.app.guarded(() => this.mend(thinned(drawn.path, MOST_POINTS), drawn.adds), true);
    }
  }

  /** Forget what the mouse draws. Returns whether there was a scribble. */
  drop() {
    const { line: scribbles } = this;
    scribbles?.remove();
    this.line = null;
    this.drawn = null;
    return Boolean(scribbles);
  }

  /** Mend the chosen label along a path (LPS, mm); before there is a drawing, it begins on the active series. */
  async mend(path, inside) {
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
    const prompts = [...(this.of.get(value) || []), { path, inside }];
    tell(inside ? 'Adding …' : 'Taking away …');
    const form = work.form().body;
    const sent = prompts.map(({ path: along, inside: adds }) => ({ path: along.map(rounded), inside: adds }));
    const by = box.guest.checked ? 'nninteractive' : 'maml';
    form.set('params', JSON.stringify({ label: name, prompts: sent, by }));
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
      prompts[prompts.length - 1].steps = work.steps.done.length;
      this.of.set(value, prompts);
      work.touch();
      await work.load(await work.nameNow(), work.editing); // the other series show it too
    }
    const [gained, lost] = ['X-Gained-Ml', 'X-Lost-Ml'].map(header => answer.headers.get(header));
    const guest = decodeURIComponent(answer.headers.get('X-Answered-By') || '');
    const whose = guest && ` by ${guest}`;
    tell(`${name}: ${gained} ml added, ${lost} ml taken away${whose}. Ctrl+Z takes it back.`, 'success');
  }

  /** A step was undone: prompts that came after what is left no longer count. */
  undone() {
    const { length } = this.app.work.steps.done;
    this.of.forEach((prompts, value) =>
      this.of.set(
        value,
        prompts.filter(prompt => prompt.steps <= length),
      ),
    );
  }
}

/** To a micrometre: a request has room for many scribbles then. */
const rounded = place => place.map(axis => Math.round(axis * 1000) / 1000);

/** A line over the page, which the mouse does not see. */
function line(colour) {
  const [root, path] = ['svg', 'polyline'].map(name => document.createElementNS(SVG, name));
  root.setAttribute('style', OVER_ALL);
  root.dataset.maml = 'scribble';
  path.setAttribute('style', `fill:none;stroke:${colour};stroke-width:3;stroke-linecap:round;stroke-linejoin:round`);
  root.append(path);
  document.body.append(root);
  return root;
}
