/**
 * The annotator's workplace in OHIF: one label a case, shown on every series, drawn where it lies, never lost.
 *
 * The server joins these files behind OHIF's app-config.js, after `window.maml`: the task's model, title, modalities,
 * labels, kinds and windows. OHIF takes extension objects there, so nothing of OHIF is rebuilt.
 */

import { Refused, ask, askJson, nrrdVoxels, post } from './server.js';
import { Steps, ago, copySlice, counts, fill, restore } from './slices.js';
import { TOOLS, build, press, question, setBusy, showModalities, showVersions } from './panel.js';
import { Viewer } from './ohif.js';

const DRAFT_MS = 60000;
const SETTLED_MS = 150;
const TRAINING_MS = 5000;

function start(task) {
  const NOTHING = { words: 'Nothing is drawn yet.', parent: '', proposal: '', model: '' };
  let viewer = null;
  let box = null;
  let busy = false;
  let opening = '';
  let placed = null; // the stock panel in whose place ours is
  let running = null; // what cancels the segmentation that runs
  const known = new Map(); // SeriesInstanceUID -> what the server says of it
  const steps = new Steps();
  const work = { study: null, editing: '', base: NOTHING, dirty: false, began: 0, quiet: false };

  // ---- telling

  function tell(message, type = 'info') {
    viewer.notify(task.title, message, type);
    if (box) {
      box.message.textContent = message;
      box.message.dataset.type = type;
    }
  }

  function showSaved() {
    const where = work.editing ? ` Drawn on ${modalityOf(work.editing)}.` : '';
    box.saved.textContent = work.dirty ? `Not saved yet.${where}` : `${work.base.words}${where}`;
    box.saved.style.color = work.dirty ? '#ffd23c' : '';
    const planes = work.editing && viewer.planes(work.editing);
    const info = known.get(work.editing);
    box.volumes.textContent = planes && info ? volumes(planes, info.voxel_ml) : '';
  }

  function volumes(planes, voxelMl) {
    const found = counts(planes);
    return task.labels
      .map(({ name, value }) => `${name} ${((found.get(value) || 0) * voxelMl).toFixed(2)} ml`)
      .join(', ');
  }

  const modalityOf = series => (known.get(series) || {}).modality || 'this series';

  /** Nothing else starts while something runs; what goes wrong is shown. */
  async function guarded(action, cancellable = false) {
    if (busy) {
      return;
    }
    busy = true;
    setBusy(box, true, cancellable);
    try {
      await action();
    } catch (error) {
      tell(error.name === 'AbortError' ? 'Cancelled.' : error.message, error.name === 'AbortError' ? 'info' : 'error');
    } finally {
      busy = false;
      running = null;
      setBusy(box, false);
      await refresh();
    }
  }

  /** Whether unsaved work may go; asks if there is any. */
  async function mayLeave(what) {
    if (!work.dirty) {
      return true;
    }
    const answer = await question(box, `Your drawing is not saved. ${what}`, ['Save first', 'Drop it', 'Go back']);
    if (answer === 0) {
      await store();
    }
    return answer === 1 || (answer === 0 && !work.dirty);
  }

  // ---- what the server knows

  async function infoOf(series, anew = false) {
    if (anew || !known.has(series)) {
      known.set(series, await askJson(`/maml/series/${series}`));
    }
    return known.get(series);
  }

  function forget() {
    known.clear();
  }

  /** The series that is worked on: what it is, what is missing, which versions there are. */
  async function refresh() {
    const view = viewer && box && viewer.active();
    if (!view) {
      return;
    }
    box.series.textContent = `Series: ${view.displaySet.SeriesDescription || view.series}`;
    try {
      const info = await infoOf(view.series);
      const now = viewer.active();
      if (!now || now.series !== view.series) {
        return; // another series was chosen meanwhile
      }
      box.state.textContent = contents(info);
      showModalities(box, rows(info));
    } catch (error) {
      box.state.textContent = error.message;
    }
    await viewer.show();
    showSaved();
  }

  function contents({ modalities, missing, label, model, told }) {
    const absent = missing.length ? `missing: ${missing.join(', ')}` : 'none missing';
    const named = label ? `Label: ${words(label)}` : 'No label yet.';
    const served = model ? `Model ${model}.` : 'No model yet.';
    return [`Modalities: ${modalities.join(', ')}; ${absent}. ${served}`, named, ...told].join('\n');
  }

  function words({ label, saved: when, author, changed_ml: changed, state, image }) {
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

  function rows(info) {
    const series = work.study ? work.study.series : {};
    const described = Object.entries(series).map(([modality, uid]) => {
      const [found] = viewer.service('displaySetService').getDisplaySetsForSeries(uid) || [];
      const note = uid === work.editing ? 'drawn here' : '';
      return { modality, series: found ? `${found.SeriesNumber || ''} ${found.SeriesDescription || ''}` : uid, note };
    });
    return [...described, ...info.missing.map(modality => ({ modality, series: '–', note: 'missing' }))];
  }

  // ---- showing a label on every series

  /** Read a label, draft or proposal from the server onto every series that is shown. */
  async function load(name, editing) {
    work.quiet = true;
    try {
      for (const view of viewer.views()) {
        await loadOn(view, name);
      }
      work.editing = editing;
      const planes = viewer.planes(editing);
      if (planes) {
        steps.reset(planes);
      }
    } finally {
      work.quiet = false;
    }
  }

  async function loadOn(view, name) {
    const info = await infoOf(view.series).catch(() => null);
    if (!info || !info.slices) {
      return; // a series of no case
    }
    const answer = await ask(`/maml/series/${view.series}/label?label=${encodeURIComponent(name)}`);
    const voxels = new Uint8Array(await answer.arrayBuffer());
    const planes = await viewer.labelmap(view);
    fill(planes, voxels, info.slices);
    viewer.changed(view.series);
  }

  /** Open the newest that there is: the user's draft, else the label that counts. */
  async function openNewest(info) {
    work.dirty = false;
    work.began = Date.now();
    if (info.draft) {
      const editing = seriesOf(info.draft.image);
      await load('draft', editing);
      work.base = { words: '', parent: info.draft.parent, proposal: info.draft.proposal, model: '' };
      work.dirty = true;
      tell(`Your unsaved drawing of ${ago(info.draft.saved)} is back.`);
    } else if (info.label) {
      await load(info.label.label, seriesOf(info.label.image));
      work.base = { words: words(info.label), parent: info.label.label, proposal: '', model: '' };
    } else {
      work.base = NOTHING;
      work.editing = '';
    }
    chooseLabel();
    showSaved();
    await listVersions();
  }

  const seriesOf = image => (work.study && work.study.series[image]) || image || (work.study && work.study.reference);

  async function listVersions() {
    const history = await askJson(`/maml/cases/${work.study.case}/history`).catch(() => []);
    const shown = history.map(row => {
      const changed = Object.values(row.changes).reduce((sum, change) => sum + change.ml, 0);
      return { id: row.label, words: words({ ...row, changed_ml: changed ? changed.toFixed(2) : null }) };
    });
    showVersions(box, shown.reverse());
  }

  /** A study was opened: its modalities side by side, its newest label on all of them. */
  async function openStudy() {
    const view = viewer.active();
    if (!view || opening === view.displaySet.StudyInstanceUID) {
      return;
    }
    opening = view.displaySet.StudyInstanceUID;
    forget();
    try {
      work.study = await askJson(`/maml/study/${opening}`);
    } catch {
      work.study = null; // the state says why, series by series
      await refresh();
      return;
    }
    await viewer.arrange(work.study.series);
    await new Promise(resolve => setTimeout(resolve, 1000)); // the viewports get their images
    for (const shown of viewer.views()) {
      const [modality] = Object.entries(work.study.series).find(([, uid]) => uid === shown.series) || [];
      viewer.setWindow(shown.viewportId, task.kinds[modality], task.windows[modality]);
    }
    await guarded(async () => openNewest(await infoOf(work.study.reference, true)));
    void followTraining();
  }

  // ---- drawing

  function chooseLabel() {
    viewer.choose(Number(box.label.value), box.protect.checked);
  }

  function chooseTool(tool) {
    viewer.useTool(tool, Number(box.size.value));
    press(box, tool);
  }

  /** After a stroke: it counts on the acquired slices of the series where the label lies, and nowhere else. */
  function drawn() {
    if (work.quiet || busy) {
      return;
    }
    const view = viewer.active();
    if (!view || !viewer.planes(view.series)) {
      return;
    }
    if (view.series !== work.editing) {
      void takeBack(
        view,
        `This label is drawn on ${modalityOf(work.editing)}: draw there, or press "Draw here" first.`,
      );
      return;
    }
    const planes = viewer.planes(work.editing);
    if (!viewer.acquired(view.viewportId)) {
      restore(planes, steps.shadow);
      viewer.changed(work.editing);
      tell('Drawing is for slices as they were acquired; reformats are for looking.', 'error');
      return;
    }
    if (steps.take(planes).length) {
      work.dirty = true;
      showSaved();
    }
  }

  async function takeBack(view, why) {
    tell(why, 'error');
    const base = work.dirty ? await keepDraft() : work.base;
    const name = work.dirty ? 'draft' : base.parent || base.proposal;
    work.quiet = true;
    try {
      if (name) {
        await loadOn(view, name);
      } else {
        viewer.planes(view.series).forEach(plane => plane.fill(0));
        viewer.changed(view.series);
      }
    } finally {
      work.quiet = false;
    }
  }

  function move(step) {
    const planes = work.editing && viewer.planes(work.editing);
    if (planes && step(planes)) {
      work.quiet = true;
      viewer.changed(work.editing);
      work.quiet = false;
      work.dirty = true;
      showSaved();
    }
  }

  function copyToNext() {
    const view = viewer.active();
    if (!view || view.series !== work.editing || !viewer.acquired(view.viewportId)) {
      tell('Show the series that the label is drawn on.', 'error');
      return;
    }
    const [from, to] = viewer.slicesAt(view.viewportId);
    const planes = viewer.planes(work.editing);
    if (!to || !planes.has(to)) {
      tell('This is the last slice.', 'error');
      return;
    }
    copySlice(planes, from, to, Number(box.label.value));
    viewer.changed(work.editing);
    drawn();
    viewer.goTo(view.viewportId, to);
  }

  // ---- actions

  async function run() {
    const view = viewer.active();
    if (!view) {
      throw new Error('Show a series first.');
    }
    if (!(await mayLeave('A new proposal takes its place.'))) {
      return;
    }
    tell('Segmenting …');
    running = new AbortController();
    const info = await infoOf(view.series, true);
    const form = new FormData();
    form.append('params', JSON.stringify({ result_extension: '.nrrd', result_dtype: 'uint8', result_compress: false }));
    const path = `/infer/${task.model}?image=${view.series}&output=all`;
    const answer = await ask(path, { method: 'POST', body: form, signal: running.signal });
    const parts = await answer.formData();
    const params = JSON.parse(await textOf(parts.get('params')));
    const voxels = nrrdVoxels(await parts.get('image').arrayBuffer());
    work.quiet = true;
    try {
      fill(await viewer.labelmap(view), voxels, info.slices);
      viewer.changed(view.series);
      work.editing = view.series;
      for (const other of viewer.views()) {
        if (other.series !== view.series) {
          await loadOn(other, params.proposal);
        }
      }
    } finally {
      work.quiet = false;
    }
    steps.reset(viewer.planes(view.series));
    chooseLabel();
    const parent = info.label ? info.label.label : '';
    const said = `Proposal of model ${params.model_version}`;
    work.base = { words: `${said}.`, parent, proposal: params.proposal, model: params.model_version };
    work.dirty = false;
    work.began = Date.now();
    const missing = params.modalities_missing.length ? `; missing: ${params.modalities_missing.join(', ')}` : '';
    const sure = `uncertainty ${params.uncertainty.toFixed(2)}`;
    if (voxels.some(value => value)) {
      tell(`${said} from ${params.modalities_used.join(', ')}${missing}; ${sure}.`, 'success');
    } else {
      tell(`${said} found nothing, from ${params.modalities_used.join(', ')}${missing}. Draw, or save it as it is.`);
    }
  }

  const textOf = part => (typeof part === 'string' ? part : part.text());

  function drawing(nothingThere = false) {
    const planes = viewer.planes(work.editing);
    const names = [...planes.keys()];
    const params = {
      client_id: 'OHIF',
      parent: work.base.parent,
      proposal: work.base.proposal,
      model_version: work.base.model,
      drawn: work.base.proposal ? 'SEMIAUTOMATIC' : 'MANUAL',
      seconds: Math.round((Date.now() - work.began) / 1000),
      nothing_there: nothingThere,
    };
    const form = new FormData();
    form.append('voxels', new Blob(names.map(name => new Uint8Array(planes.get(name)))), 'voxels');
    form.append('slices', JSON.stringify(names));
    form.append('params', JSON.stringify(params));
    return { method: 'PUT', body: form };
  }

  async function keepDraft() {
    if (work.dirty && work.editing && viewer.planes(work.editing)) {
      await ask(`/maml/series/${work.editing}/draft`, drawing());
      box.saved.textContent = `Not saved yet; a draft was kept ${new Date().toLocaleTimeString()}.`;
    }
    return work.base;
  }

  async function store(nothingThere = false) {
    if (!work.editing || !viewer.planes(work.editing)) {
      throw new Error('There is nothing to save yet: segment the series, or start empty.');
    }
    tell('Saving …');
    let answer;
    try {
      answer = await askJson(`/maml/series/${work.editing}/label`, drawing(nothingThere));
    } catch (error) {
      if (error instanceof Refused && error.status === 409 && error.details.conflict) {
        return conflict(error.details);
      }
      throw new Error(`Not saved, your drawing is still here: ${error.message}`);
    }
    const said = Object.entries(answer.volume_ml).map(([name, ml]) => `${name} ${ml} ml`);
    await saved(
      answer.label.split('@')[1],
      `Saved as the label of this case, on ${answer.modality}: ${said.join(', ')}.`,
    );
    return undefined;
  }

  /** All series show what counts now. */
  async function saved(label, message) {
    work.dirty = false;
    forget();
    const info = await infoOf(work.editing, true);
    work.base = { words: info.label ? words(info.label) : '', parent: label, proposal: '', model: '' };
    work.began = Date.now();
    tell(message, 'success');
    await load(label, work.editing);
    await listVersions();
  }

  async function conflict(details) {
    if (details.conflict === 'empty') {
      const answer = await question(box, details.detail, ['Nothing is there', 'Go back']);
      if (answer === 0) {
        await store(true);
      }
      return;
    }
    const answer = await question(box, details.detail, ['Keep mine', 'Keep theirs', 'Look at theirs']);
    const path = `/maml/cases/${details.case}/labels/${details.mine}/choose`;
    if (answer === 0) {
      await ask(path, post({ keep: true }));
      await saved(details.mine, `${details.mine} is the label of this case now.`);
    } else if (answer === 1) {
      await ask(path, post({ keep: false }));
      forget();
      await openNewest(await infoOf(work.study.reference, true));
      tell(`${details.theirs} stays the label of this case.`);
    } else if (answer === 2) {
      await load(details.theirs, work.editing);
      work.base = { words: details.theirs, parent: details.theirs, proposal: '', model: '' };
      work.dirty = false;
      tell(`This is ${details.theirs}. Yours is kept as ${details.mine}: open it from the versions.`);
    }
  }

  async function startEmpty() {
    const view = viewer.active();
    if (!view) {
      throw new Error('Show a series first.');
    }
    if (!(await mayLeave('An empty one takes its place.'))) {
      return;
    }
    const info = await infoOf(view.series, true);
    work.quiet = true;
    for (const shown of viewer.views()) {
      if (await infoOf(shown.series).catch(() => null)) {
        (await viewer.labelmap(shown)).forEach(plane => plane.fill(0));
        viewer.changed(shown.series);
      }
    }
    work.quiet = false;
    work.editing = view.series;
    steps.reset(viewer.planes(view.series));
    chooseLabel();
    work.base = { ...NOTHING, words: 'Empty.', parent: info.label ? info.label.label : '' };
    work.began = Date.now();
    work.dirty = false;
    tell('An empty segmentation: draw with the brush, or save it as it is if there is nothing to draw.');
  }

  /** Go on drawing on the series that is active: the label is brought onto its slices. */
  async function drawHere() {
    const view = viewer.active();
    if (!view || view.series === work.editing) {
      return;
    }
    if (!work.editing) {
      await startEmpty();
      return;
    }
    const text = `The label is brought onto the slices of ${view.displaySet.SeriesDescription}, which are other ones.`;
    if ((await question(box, text, ['Draw here', 'Go back'])) !== 0) {
      return;
    }
    await keepDraft();
    const name = work.dirty ? 'draft' : work.base.proposal || work.base.parent;
    work.quiet = true;
    if (name) {
      await loadOn(view, name);
    } else {
      await viewer.labelmap(view);
    }
    work.quiet = false;
    work.editing = view.series;
    steps.reset(viewer.planes(view.series));
    chooseLabel();
    work.dirty = true;
    tell(`Draw on ${modalityOf(view.series)}.`);
  }

  async function openVersion() {
    const name = box.versions.value;
    if (!name || !(await mayLeave('Another version takes its place.'))) {
      return;
    }
    const history = await askJson(`/maml/cases/${work.study.case}/history`);
    const row = history.find(one => one.label === name);
    const info = await infoOf(work.study.reference, true);
    await load(name, seriesOf(row.image));
    work.base = { words: words(row), parent: info.label ? info.label.label : '', proposal: '', model: '' };
    work.dirty = false;
    work.began = Date.now();
    tell(`This is ${name}. Saved, it becomes the newest.`);
  }

  /** Ask which case to do next; its reason and picture are shown before anything is left. */
  async function nextCase(skip = '') {
    if (!(await mayLeave('Another case is opened.'))) {
      return;
    }
    const next = await askJson('/activelearning/random', post(skip ? { skip } : {}));
    if (!next.id) {
      tell('No case waits for a label.', 'success');
      return;
    }
    tell(`Next: ${next.PatientID || next.id}. ${next.reason}`);
    const address = new URL(window.location.href);
    address.searchParams.set('StudyInstanceUIDs', next.StudyInstanceUID);
    const link = Object.assign(document.createElement('a'), { href: address.href, textContent: 'Open it' });
    link.style.cssText = 'color:#5acce6;text-decoration:underline';
    box.message.append(' ', link);
    if (next.picture) {
      const picture = Object.assign(document.createElement('img'), {
        src: next.picture,
        alt: 'where the experts disagree',
      });
      picture.style.cssText = 'width:100%';
      box.message.append(picture);
    }
  }

  async function train() {
    await ask(`/train/${task.model}`, post({}));
    tell('Training has begun.');
    void followTraining(true);
  }

  /** Say how far a training is, until it has ended; then what became of it. */
  async function followTraining(begun = false) {
    const stats = (await askJson('/info/').catch(() => ({}))).train_stats || {};
    const last = (stats[task.model] || {}).last_run || {};
    const state = await askJson('/train/').catch(() => null);
    const going = state && ['SUBMITTED', 'RUNNING'].includes(state.status);
    if (going) {
      const { stage = 'starting', done = 0, total = 0, seconds_left: left } = last.progress || {};
      const minutes = left ? `, ${(left / 60).toFixed(1)} min left` : '';
      box.training.textContent = ` Training: ${stage} ${done}/${total || '?'}${minutes}`;
      setTimeout(() => void followTraining(true), TRAINING_MS);
      return;
    }
    box.training.textContent = '';
    if (begun && state) {
      const lines = (state.details || []).join('\n');
      const told = lines.match(/(published v\d+|worse than [^\n]*|Training failed[^\n]*)/g);
      forget();
      tell(`Training has ended: ${told ? told.pop() : state.status.toLowerCase()}.`, 'success');
      await refresh();
    }
  }

  // ---- in OHIF

  function look() {
    viewer.look(box.visible.checked, Number(box.opacity.value));
  }

  const actions = {
    label: () => chooseLabel(),
    look,
    size: () =>
      chooseTool(([...box.tools].find(([, one]) => one.getAttribute('aria-pressed') === 'true') || ['WindowLevel'])[0]),
    tool: chooseTool,
    run: () => (running ? running.abort() : guarded(run, true)),
    empty: () => guarded(startEmpty),
    here: () => guarded(drawHere),
    undo: () => move(planes => steps.undo(planes)),
    redo: () => move(planes => steps.redo(planes)),
    copy: copyToNext,
    save: () => guarded(() => store()),
    open: () => guarded(openVersion),
    next: () => guarded(() => nextCase()),
    skip: () => guarded(() => nextCase(work.study ? work.study.case : '')),
    train: () => guarded(train),
  };

  /** Our panel in the place of the stock one, which is not shown. */
  function attach() {
    const panel = document.querySelector('.monaiLabelPanel');
    if (!viewer || !panel) {
      return;
    }
    if (!box) {
      box = build(task, actions);
    }
    if (!box.root.isConnected) {
      panel.parentElement.insertBefore(box.root, panel);
      panel.style.display = 'none';
    }
    // what the panel shows changes the page too: from here on OHIF's own events tell of changes
    if (placed !== panel && viewer.active()) {
      placed = panel;
      void openStudy().then(refresh);
    }
  }

  function key(event) {
    const typing = /^(input|select|textarea)$/i.test(event.target.tagName) && event.target.type !== 'checkbox';
    if (!box || !box.root.isConnected || typing || busy) {
      return;
    }
    const pressed = event.key.toLowerCase();
    const tool = TOOLS.find(([, , letter]) => letter === pressed);
    if ((event.ctrlKey || event.metaKey) && 'zy'.includes(pressed)) {
      (pressed === 'z' ? actions.undo : actions.redo)();
    } else if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    } else if (tool) {
      chooseTool(tool[0]);
    } else if (task.labels.some(label => String(label.value) === pressed)) {
      box.label.value = pressed;
      chooseLabel();
    } else if (pressed === 'v') {
      box.visible.checked = !box.visible.checked;
      look();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  const events = new AbortController();
  const listen = (target, name, action, capture = false) =>
    target.addEventListener(name, action, { signal: events.signal, capture });
  listen(document, 'keydown', key, true);
  listen(document, 'pointerup', () => setTimeout(() => viewer && box && drawn(), SETTLED_MS), true);
  listen(window, 'beforeunload', event => {
    if (work.dirty) {
      event.preventDefault();
      event.returnValue = '';
    }
  });
  setInterval(() => {
    if (work.dirty && !busy) {
      keepDraft().catch(error => tell(`The draft could not be kept: ${error.message}`, 'error'));
    }
  }, DRAFT_MS);
  new MutationObserver(attach).observe(document.documentElement, { childList: true, subtree: true });

  window.config.extensions.push({
    id: 'maml',
    preRegistration: managers => {
      viewer = new Viewer(managers, task);
    },
    onModeEnter: ({ commandsManager }) => {
      viewer.leave();
      forget();
      opening = '';
      placed = null;
      Object.assign(work, { study: null, editing: '', base: NOTHING, dirty: false });
      viewer.replaceCommands(commandsManager, () => guarded(() => store()), tell);
      for (const name of ['ACTIVE_VIEWPORT_ID_CHANGED', 'GRID_STATE_CHANGED', 'VIEWPORTS_READY']) {
        viewer.on('viewportGridService', name, () => {
          attach();
          void openStudy().then(refresh);
        });
      }
      // the grid tells of a change before its state shows it; when a viewport has its images, it does
      viewer.on('cornerstoneViewportService', 'VIEWPORT_DATA_CHANGED', () => {
        attach();
        void refresh();
      });
    },
    onModeExit: () => viewer.leave(),
  });
}

if (typeof window !== 'undefined' && window.maml) {
  start(window.maml);
}
