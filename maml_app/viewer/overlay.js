/** What may lie over the images: another modality, or where the model is not sure, as levels of one colour scale. */

import { ask } from './server.js';
import { fill } from './slices.js';

const ABOVE = 100; // labels' values are lower: the viewer has one table of colours for all

/** Colours of the levels 1..count, from dark red by yellow to white. */
export function hot(count) {
  return Array.from({ length: count }, (_, index) => {
    const share = (index + 1) / count;
    return [share * 3, share * 3 - 1, share * 3 - 2].map(part => Math.round(255 * Math.min(1, Math.max(0, part))));
  });
}

export class Overlay {
  constructor(app) {
    this.app = app;
    this.of = '';
  }

  /** Show it on every series that is shown; '' takes it away. */
  async show() {
    const { viewer, work, box, task } = this.app;
    this.of = box.overlay.value;
    viewer.dropOverlays();
    if (!this.of) {
      return;
    }
    this.app.cases.running = new AbortController(); // a model that has not looked yet takes as long as a proposal
    const { signal } = this.app.cases.running;
    signal.addEventListener('abort', () => {
      box.overlay.value = this.of = '';
      viewer.dropOverlays();
    });
    for (const view of viewer.views()) {
      const info = await work.info(view.series).catch(() => null);
      if (info && info.slices && info.modality !== this.of) {
        const answer = await ask(`/maml/series/${view.series}/overlay?of=${encodeURIComponent(this.of)}`, { signal });
        const levels = new Uint8Array(await answer.arrayBuffer());
        const colours = new Map(hot(task.levels).map((colour, index) => [ABOVE + index + 1, colour]));
        const planes = await viewer.overlay(view, colours);
        fill(
          planes,
          levels.map(level => level && ABOVE + level),
          info.slices,
        );
        viewer.changed(view.series, true);
      }
    }
    this.look();
  }

  look() {
    this.app.viewer.lookOverlay(Number(this.app.box.strength.value));
  }
}
