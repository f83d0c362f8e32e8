/** Drawing: a stroke counts on the acquired slices of the series where the label lies, and nowhere else. */

import { copySlice, restore } from './slices.js';
import { interpolate, lesions } from './shapes.js';
import { press, showLesions } from './panel.js';
import { PROMPTS } from './ohif.js';

const SETTLED_MS = 150; // so long nothing may have changed before a stroke is taken for over
const LOOKING = [undefined, 'WindowLevel', ...PROMPTS]; // tools that draw nothing themselves

export class Drawing {
  constructor(app) {
    this.app = app;
    this.tool = undefined;
    this.leave();
  }

  /** Forget what the mouse does. */
  leave() {
    clearTimeout(this.timer);
    this.timer = 0; // runs from a change on, until it counts
    this.stroke = 0; // how often the mouse went down
    this.pressed = false;
  }

  chooseLabel() {
    const { box, viewer } = this.app;
    viewer.choose(box.labels.chosen, box.labels.locked);
  }

  chooseTool(tool) {
    const { box, viewer } = this.app;
    this.tool = tool;
    viewer.useTool(tool, Number(box.size.value));
    press(box, tool);
  }

  size() {
    this.chooseTool(this.tool || 'WindowLevel');
  }

  look() {
    const { box, viewer } = this.app;
    viewer.look(box.labels.hidden, Number(box.opacity.value));
  }

  cross() {
    const { box, viewer } = this.app;
    viewer.crossHairs(box.cursor.checked);
  }

  /** The mouse went down: what is drawn until it goes down again is one step, however late it comes. */
  down() {
    this.settle();
    this.stroke += 1;
    this.pressed = true;
  }

  up() {
    this.pressed = false;
    this.changed();
  }

  /** A tool changed a labelmap, perhaps after the mouse went up: a click without a drag draws 0.4 s later. */
  changed() {
    clearTimeout(this.timer);
    this.timer = this.stroke && !this.pressed ? setTimeout(() => this.settle(), SETTLED_MS) : 0;
  }

  /** What was changed and does not count yet does now. */
  settle() {
    if (this.timer) {
      clearTimeout(this.timer);
      this.timer = 0;
      this.drawn();
    }
  }

  /** After a stroke. */
  drawn() {
    const { work, viewer, tell } = this.app;
    const view = viewer.active();
    if (work.quiet || this.app.busy || LOOKING.includes(this.tool) || !view || !viewer.planes(view.series)) {
      return;
    }
    if (view.series !== work.editing) {
      const where = work.editing
        ? `draw there, or press "Draw here" first`
        : 'segment the series, or start empty, first';
      void this.takeBack(view, `This label is drawn on ${work.modalityOf(work.editing)}: ${where}.`);
      return;
    }
    const planes = work.planes();
    if (!viewer.acquired(view.viewportId)) {
      restore(planes, work.steps.shadow);
      viewer.changed(work.editing);
      tell('Drawing is for slices as they were acquired; reformats are for looking.', 'error');
      return;
    }
    this.taken();
  }

  /** What changed is a step, which can be undone. */
  taken() {
    const { work } = this.app;
    if (work.steps.take(work.planes(), this.stroke).length) {
      work.touch();
      this.app.showSaved();
      this.showLesions();
    }
  }

  /** A stroke on a series where the label does not lie: what was there comes back. */
  async takeBack(view, why) {
    const { work, viewer, tell } = this.app;
    tell(why, 'error');
    const name = await work.nameNow();
    await work.quietly(async () => {
      if (name) {
        await work.loadOn(view, name);
      } else {
        viewer.planes(view.series).forEach(plane => plane.fill(0));
        viewer.changed(view.series);
      }
    });
  }

  undo() {
    this.settle();
    this.move(planes => this.app.work.steps.undo(planes));
    this.app.prompts.undone();
  }

  redo() {
    this.settle();
    this.move(planes => this.app.work.steps.redo(planes));
  }

  move(step) {
    const { work, viewer } = this.app;
    const planes = work.planes();
    if (planes && step(planes)) {
      work.quiet = true;
      viewer.changed(work.editing);
      work.quiet = false;
      work.touch();
      this.app.showSaved();
      this.showLesions();
    }
  }

  /** The viewport that shows the drawing as acquired, or null, which is told. */
  here() {
    const { work, viewer, tell } = this.app;
    const view = viewer.active();
    if (view && view.series === work.editing && viewer.acquired(view.viewportId)) {
      return view;
    }
    tell('Show the series that the label is drawn on.', 'error');
    return null;
  }

  copy() {
    const { work, viewer, box, tell } = this.app;
    const view = this.here();
    if (!view) {
      return;
    }
    const [from, to] = viewer.slicesAt(view.viewportId);
    const planes = work.planes();
    if (!to || !planes.has(to)) {
      tell('This is the last slice.', 'error');
      return;
    }
    copySlice(planes, from, to, box.labels.chosen);
    viewer.changed(work.editing);
    this.taken();
    viewer.goTo(view.viewportId, to);
  }

  /** Fill the slices between drawn ones with shapes in between. */
  interpolate() {
    const { work, viewer, box, tell } = this.app;
    if (!this.here()) {
      return;
    }
    const info = work.known.get(work.editing);
    const filled = interpolate(work.planes(), info.slices, info.columns, box.labels.chosen);
    viewer.changed(work.editing);
    this.taken();
    tell(filled ? `${filled} slices were filled in.` : 'There are no empty slices between drawn ones of this label.');
  }

  /** The connected parts of the drawing, largest first; a click goes to the slice where one is largest. */
  showLesions() {
    const { work, viewer, box, task } = this.app;
    const planes = work.planes();
    const info = work.known.get(work.editing);
    if (!planes || !info || !info.slices) {
      showLesions(box, []);
      return;
    }
    const named = new Map(task.labels.map(({ name, value }) => [value, name]));
    const rows = lesions(planes, info.slices, info.columns).map(found => ({
      words: `${named.get(found.value)} ${(found.voxels * info.voxel_ml).toFixed(2)} ml`,
      go: () =>
        viewer.views().forEach(view => view.series === work.editing && viewer.goTo(view.viewportId, found.slice)),
    }));
    showLesions(box, rows);
  }
}
