/** What is worked on: a study's case, its label on every series that is shown, and where it came from. Tells nobody. */

import { ask, askJson } from './server.js';
import { Steps, ago, fill } from './slices.js';

export const NOTHING = { words: 'Nothing is drawn yet.', parent: '', proposal: '', model: '' };

export class Work {
  constructor(viewer) {
    this.viewer = viewer;
    this.steps = new Steps();
    this.keeping = null; // drafts on their way to the server
    this.leave();
  }

  /** Forget the study. */
  leave() {
    this.known = new Map(); // SeriesInstanceUID -> what the server says of it
    this.study = null;
    this.editing = ''; // the series on whose slices the label lies
    this.base = NOTHING; // what the drawing started from
    this.dirty = false;
    this.touched = 0; // when something was drawn last, and a draft was kept last
    this.drafted = 0;
    this.began = 0;
    this.quiet = false; // while the program itself writes into labelmaps
    this.steps.reset(new Map());
  }

  /** What the server says of a series. */
  async info(series, anew = false) {
    if (anew || !this.known.has(series)) {
      this.known.set(series, await askJson(`/maml/series/${series}`));
    }
    return this.known.get(series);
  }

  modalityOf(series) {
    return (this.known.get(series) || {}).modality || 'this series';
  }

  /** The series of a modality, or of an image that is none. */
  seriesOf(image) {
    return (this.study && this.study.series[image]) || image || (this.study && this.study.reference);
  }

  /** The drawing: slice name -> voxels; null before there is one. */
  planes() {
    return this.editing ? this.viewer.planes(this.editing) : null;
  }

  /** Write into labelmaps without this being taken for a stroke. */
  async quietly(action) {
    this.quiet = true;
    try {
      return await action();
    } finally {
      this.quiet = false;
    }
  }

  /** Go on from here: the drawing lies on a series, and started from `base`. */
  begin(editing, base, dirty = false) {
    Object.assign(this, { editing, base, dirty, began: Date.now() });
    this.steps.reset(this.planes() || new Map());
  }

  touch() {
    this.dirty = true;
    this.touched = Date.now();
  }

  /** Read a label, draft or proposal from the server onto every series that is shown, or all but one. */
  async load(name, except = '') {
    await this.quietly(async () => {
      for (const view of this.viewer.views()) {
        if (view.series !== except) {
          await this.loadOn(view, name);
        }
      }
    });
  }

  async loadOn(view, name) {
    const info = await this.info(view.series).catch(() => null);
    if (!info || !info.slices) {
      return; // a series of no case
    }
    const answer = await ask(`/maml/series/${view.series}/label?label=${encodeURIComponent(name)}`);
    const voxels = new Uint8Array(await answer.arrayBuffer());
    fill(await this.viewer.labelmap(view), voxels, info.slices);
    this.viewer.changed(view.series);
  }

  /** Empty the label on every series that is shown. */
  async clear() {
    await this.quietly(async () => {
      for (const view of this.viewer.views()) {
        if (await this.info(view.series).catch(() => null)) {
          (await this.viewer.labelmap(view)).forEach(plane => plane.fill(0));
          this.viewer.changed(view.series);
        }
      }
    });
  }

  /** The drawing as the server takes it, for a save or a draft. */
  form(nothingThere = false) {
    const planes = this.planes();
    const names = [...planes.keys()];
    const params = {
      client_id: 'OHIF',
      parent: this.base.parent,
      proposal: this.base.proposal,
      model_version: this.base.model,
      drawn: this.base.proposal ? 'SEMIAUTOMATIC' : 'MANUAL',
      seconds: Math.round((Date.now() - this.began) / 1000),
      nothing_there: nothingThere,
    };
    const form = new FormData();
    form.append('voxels', new Blob(names.map(name => new Uint8Array(planes.get(name)))), 'voxels');
    form.append('slices', JSON.stringify(names));
    form.append('params', JSON.stringify(params));
    return { method: 'PUT', body: form };
  }

  /** Whether unsaved work should be kept as a draft now: after a pause in drawing, and while it goes on each minute. */
  draftDue(now = Date.now()) {
    const waits = this.dirty && this.touched > this.drafted;
    return waits && (now - this.touched > 10000 || now - Math.max(this.drafted, this.began) > 60000);
  }

  /** Keep unsaved work as a draft on the server. Returns whether there was any. */
  async keepDraft() {
    if (!this.dirty || !this.planes()) {
      return false;
    }
    this.drafted = Date.now();
    const sent = ask(`/maml/series/${this.editing}/draft`, this.form());
    this.keeping = Promise.allSettled([this.keeping, sent]);
    await sent;
    return true;
  }

  /** Have the server forget the draft; what is still unsaved after that is kept anew. */
  async dropDraft() {
    await this.keeping; // or one that is on its way would come back
    try {
      await ask(`/maml/series/${this.editing}/draft`, { method: 'DELETE' });
    } catch (error) {
      throw new Error(`The draft of your drawing could not be dropped, it is still here: ${error.message}`);
    }
    this.drafted = 0;
  }

  /** Give the drawing up; it stays on the screen until something takes its place. */
  async drop() {
    await this.dropDraft();
    this.dirty = false;
    this.base = { ...this.base, words: 'Dropped, and saved nowhere.' };
  }

  /** The name under which the server has what is on the screen; keeps a draft if that is nowhere else. */
  async nameNow() {
    return (await this.keepDraft()) ? 'draft' : this.base.proposal || this.base.parent;
  }
}

/** A label as people speak of it. */
export function inWords({ label, saved: when, author, changed_ml: changed, state, image }) {
  const parts = [label];
  if (when) {
    parts.push(ago(when), `by ${author || 'someone'}`);
  }
  if (changed !== null && changed !== undefined) {
    parts.push(`corrected by ${changed} ml`);
  }
  if (image) {
    parts.push(`on ${image}`);
  }
  if (state && state !== 'final') {
    parts.push(state);
  }
  return parts.join(', ');
}
