/** From case to case: a study opens where work goes on; a proposal, an empty start, an older version, the next case. */

import { ask, askJson, nrrdVoxels, post } from './server.js';
import { ago, fill } from './slices.js';
import { make } from './page.js';
import { question } from './panel.js';
import { NOTHING, inWords } from './work.js';

const LINK = 'color:#5acce6;text-decoration:underline';

export class Cases {
  constructor(app) {
    this.app = app;
    this.opening = '';
    this.running = null; // what cancels the segmentation that runs
  }

  /** A study was opened: its modalities side by side, its newest label on all of them. */
  async openStudy() {
    const { work, viewer, task } = this.app;
    const view = viewer.active();
    if (!view || !this.app.shown() || this.opening === view.displaySet.StudyInstanceUID) {
      return;
    }
    this.opening = view.displaySet.StudyInstanceUID;
    work.leave();
    try {
      work.study = await askJson(`/maml/study/${this.opening}?series=${view.series}`);
    } catch {
      await this.app.refresh(); // the state says why, series by series
      return;
    }
    await viewer.arrange(work.study.series);
    for (const shown of viewer.views()) {
      const [modality] = Object.entries(work.study.series).find(([, uid]) => uid === shown.series) || [];
      viewer.setWindow(shown.viewportId, task.kinds[modality], task.windows[modality]);
    }
    this.app.drawing.cross();
    await this.app.guarded(async () => this.openNewest(await work.info(work.study.reference, true)));
    void this.app.training.follow();
  }

  /** Open the newest that there is: the user's draft, else the label that counts. */
  async openNewest(info) {
    const { work, tell } = this.app;
    if (info.draft) {
      await work.load('draft');
      const base = { words: '', parent: info.draft.parent, proposal: info.draft.proposal, model: '' };
      work.begin(work.seriesOf(info.draft.image), base, true);
      tell(`Your unsaved drawing of ${ago(info.draft.saved)} is back.`);
    } else if (info.label) {
      await work.load(info.label.label);
      const base = { words: inWords(info.label), parent: info.label.label, proposal: '', model: '' };
      work.begin(work.seriesOf(info.label.image), base);
    } else {
      work.begin('', NOTHING);
    }
    this.app.drawing.chooseLabel();
    await this.app.saving.listVersions();
  }

  /** Ask the model for a proposal on the series that is active; a second press cancels. */
  async run() {
    const { work, viewer, tell, task } = this.app;
    const view = this.active();
    if (!(await this.app.saving.mayLeave('A new proposal takes its place.'))) {
      return;
    }
    tell('Segmenting …');
    this.running = new AbortController();
    const info = await work.info(view.series, true);
    const form = new FormData();
    form.append('params', JSON.stringify({ result_extension: '.nrrd', result_dtype: 'uint8', result_compress: false }));
    const path = `/infer/${task.model}?image=${view.series}&output=all`;
    const answer = await ask(path, { method: 'POST', body: form, signal: this.running.signal });
    const parts = await answer.formData();
    const params = JSON.parse(await textOf(parts.get('params')));
    const voxels = nrrdVoxels(await parts.get('image').arrayBuffer());
    await work.quietly(async () => {
      fill(await viewer.labelmap(view), voxels, info.slices);
      viewer.changed(view.series);
    });
    await work.load(params.proposal, view.series);
    const parent = info.label ? info.label.label : '';
    const said = `Proposal of model ${params.model_version}`;
    work.begin(view.series, { words: `${said}.`, parent, proposal: params.proposal, model: params.model_version });
    this.app.drawing.chooseLabel();
    const missing = params.modalities_missing.length ? `; missing: ${params.modalities_missing.join(', ')}` : '';
    const used = `${params.modalities_used.join(', ')}${missing}`;
    if (voxels.some(value => value)) {
      tell(`${said} from ${used}; uncertainty ${params.uncertainty.toFixed(2)}${expected(params)}.`, 'success');
    } else {
      tell(`${said} found nothing, from ${used}. Draw, or save it as it is.`);
    }
  }

  active() {
    const view = this.app.viewer.active();
    if (!view) {
      throw new Error('Show a series first.');
    }
    return view;
  }

  async startEmpty() {
    const { work, tell } = this.app;
    const view = this.active();
    if (!(await this.app.saving.mayLeave('An empty one takes its place.'))) {
      return;
    }
    const info = await work.info(view.series, true);
    await work.clear();
    work.begin(view.series, { ...NOTHING, words: 'Empty.', parent: info.label ? info.label.label : '' });
    this.app.drawing.chooseLabel();
    tell('An empty segmentation: draw with the brush, or save it as it is if there is nothing to draw.');
  }

  /** The case holds nothing to draw: an empty label is saved, once that is confirmed. */
  async nothingThere() {
    const { work, box } = this.app;
    const view = this.active();
    if ((await question(box, 'Save that nothing is there?', ['Nothing is there', 'Go back'])) === 0) {
      const info = await work.info(view.series, true);
      await work.clear();
      work.begin(view.series, { ...NOTHING, parent: info.label ? info.label.label : '' });
      await this.app.saving.store(true);
    }
  }

  /** Go on drawing on the series that is active: the label is brought onto its slices. */
  async drawHere() {
    const { work, viewer, box, tell } = this.app;
    const view = this.active();
    if (view.series === work.editing) {
      return;
    }
    if (!work.editing) {
      await this.startEmpty();
      return;
    }
    const text = `The label is brought onto the slices of ${view.displaySet.SeriesDescription}, which are other ones.`;
    if ((await question(box, text, ['Draw here', 'Go back'])) !== 0) {
      return;
    }
    const name = await work.nameNow();
    await work.quietly(() => (name ? work.loadOn(view, name) : viewer.labelmap(view)));
    const { base, began } = work;
    work.begin(view.series, base);
    work.began = began;
    work.touch();
    this.app.drawing.chooseLabel();
    tell(`Draw on ${work.modalityOf(view.series)}.`);
  }

  async openVersion() {
    const { work, box, tell } = this.app;
    const name = box.versions.value;
    if (!name || !(await this.app.saving.mayLeave('Another version takes its place.'))) {
      return;
    }
    const history = await askJson(`/maml/cases/${work.study.case}/history`);
    const row = history.find(known => known.label === name);
    const info = await work.info(work.study.reference, true);
    await work.load(name);
    const parent = info.label ? info.label.label : '';
    work.begin(work.seriesOf(row.image), { words: inWords(row), parent, proposal: '', model: '' });
    this.app.drawing.chooseLabel();
    tell(`This is ${name}. Saved, it becomes the newest.`);
  }

  /** Ask which case to do next; its reason and picture are shown before anything is left, unless it opens itself. */
  async next(skip = '', open = false) {
    const { box, tell } = this.app;
    if (!(await this.app.saving.mayLeave('Another case is opened.'))) {
      return;
    }
    const next = await askJson('/activelearning/random', post(skip ? { skip } : {}));
    if (!next.id) {
      tell('No case waits for a label.', 'success');
      return;
    }
    const address = new URL(window.location.href);
    address.searchParams.set('StudyInstanceUIDs', next.StudyInstanceUID);
    tell(`Next: ${next.PatientID || next.id}. ${next.reason}`);
    if (open) {
      window.location.assign(address.href);
      return;
    }
    box.message.append(' ', make('a', { href: address.href, style: LINK }, 'Open it'));
    if (next.picture) {
      box.message.append(make('img', { src: next.picture, alt: 'where the experts disagree', style: 'width:100%' }));
    }
  }

  /** Say that a series is another modality, or none, for this study from now on. */
  async correct(series, modality) {
    const { work, tell } = this.app;
    if (!(await this.app.saving.mayLeave('The study is read anew.'))) {
      return;
    }
    await ask(`/maml/series/${series}/modality`, { ...post({ modality }), method: 'PUT' });
    this.opening = '';
    work.leave();
    tell(modality ? `It is ${modality} from now on.` : 'It is not used from now on.', 'success');
    setTimeout(() => void this.openStudy(), 0);
  }
}

/** How good the proposal will be, if the model could be checked on cases it had not seen. */
const expected = ({ expected_dice: dice, expected_dice_spread: spread }) =>
  dice === undefined ? '' : `; expected Dice ${dice.toFixed(2)} ± ${spread.toFixed(2)}`;

const textOf = part => (typeof part === 'string' ? part : part.text());
