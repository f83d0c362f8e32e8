/**
 * The annotator's workplace in OHIF: one label a case, shown on every series, drawn where it lies, never lost.
 *
 * The server joins these files behind OHIF's app-config.js, after `window.maml`: the task's model, title, modalities,
 * labels, kinds and windows. OHIF takes extension objects there, so nothing of OHIF is rebuilt.
 */

import { counts } from './slices.js';
import { TOOLS, build, setBusy, showModalities } from './panel.js';
import { Viewer } from './ohif.js';
import { Work, inWords } from './work.js';
import { Drawing } from './drawing.js';
import { Saving } from './saving.js';
import { Cases } from './cases.js';
import { Training } from './training.js';
import { Overlay } from './overlay.js';
import { Prompts } from './prompts.js';

const DRAFT_MS = 2000; // how often it is asked whether a draft is due

class App {
  constructor(task) {
    this.task = task;
    this.viewer = null;
    this.box = null;
    this.busy = false;
    this.placed = null; // the stock panel in whose place ours is
    for (const name of ['tell', 'refresh', 'guarded']) {
      this[name] = this[name].bind(this);
    }
  }

  /** OHIF is there. */
  start(managers) {
    this.viewer = new Viewer(managers, this.task);
    this.work = new Work(this.viewer);
    this.drawing = new Drawing(this);
    this.saving = new Saving(this);
    this.cases = new Cases(this);
    this.training = new Training(this);
    this.overlay = new Overlay(this);
    this.prompts = new Prompts(this);
  }

  /** Whether our panel is on the page. */
  shown() {
    return Boolean(this.box && this.box.root.isConnected);
  }

  tell(message, type = 'info') {
    if (this.shown()) {
      this.box.message.textContent = message;
      this.box.message.dataset.type = type;
      this.box.message.style.borderColor = type === 'error' ? '#ff4d4d' : '#0a69b9';
    } else {
      this.viewer.notify(this.task.title, message, type); // beside the panel it would lie over its buttons
    }
  }

  /** Nothing else starts while something runs; what goes wrong is shown. */
  async guarded(action, cancellable = false) {
    if (this.busy) {
      return;
    }
    this.drawing.settle(); // a stroke that is hardly over counts for what is asked now
    this.busy = true;
    setBusy(this.box, true, cancellable);
    try {
      await action();
    } catch (error) {
      const cancelled = error.name === 'AbortError';
      this.tell(cancelled ? 'Cancelled.' : error.message, cancelled ? 'info' : 'error');
    } finally {
      this.busy = false;
      this.cases.running = null;
      setBusy(this.box, false);
      await this.refresh();
    }
  }

  showSaved(draft = '') {
    const { work, box } = this;
    const where = work.editing ? ` Drawn on ${work.modalityOf(work.editing)}.` : '';
    const state = work.dirty ? `Not saved yet${draft ? `; ${draft}` : ''}.` : work.base.words;
    box.saved.textContent = `${state}${where}`;
    box.saved.style.color = work.dirty ? '#ffd23c' : '';
    const planes = work.planes();
    const info = work.known.get(work.editing);
    const found = planes && info ? counts(planes) : null;
    box.labels.tell(found && (value => (found.get(value) || 0) * info.voxel_ml));
  }

  /** The series that is active: what it is, what is missing, which versions there are. */
  async refresh() {
    const { viewer, box, work } = this;
    const view = viewer && this.shown() && viewer.active();
    if (!view) {
      return;
    }
    const name = view.displaySet.SeriesDescription || view.series;
    try {
      const info = await work.info(view.series);
      const now = viewer.active();
      if (!now || now.series !== view.series) {
        return; // another series was chosen meanwhile
      }
      // series of one description are told apart by what they are taken for
      const taken = info.modality && info.modality !== name ? ` (${info.modality})` : '';
      box.series.textContent = `Series: ${name}${taken}`;
      box.state.textContent = contents(info);
    } catch (error) {
      box.series.textContent = `Series: ${name}`;
      box.state.textContent = error.message;
    }
    showModalities(box, this.rows(), this.task.modalities, (series, modality) =>
      this.guarded(() => this.cases.correct(series, modality)),
    );
    await viewer.show();
    this.showSaved();
    this.drawing.showLesions();
  }

  /** The study's series, each with the modality it is taken for and why. */
  rows() {
    const { study, editing } = this.work;
    const rows = (study ? study.choices : []).map(choice => ({ ...choice, drawn: choice.series === editing }));
    const missing = this.task.modalities.filter(name => study && !study.series[name]);
    return [...rows, ...missing.map(modality => ({ modality, series: '', words: 'missing', why: '' }))];
  }

  /** Our panel in the place of the stock one, which is not shown. */
  attach() {
    const panel = document.querySelector('.monaiLabelPanel');
    if (!this.viewer || !panel) {
      return;
    }
    this.box = this.box || build(this.task, this.actions());
    if (!this.shown()) {
      panel.parentElement.insertBefore(this.box.root, panel);
      panel.style.display = 'none';
    }
    // what the panel shows changes the page too: from here on OHIF's own events tell of changes
    if (this.placed !== panel && this.viewer.active()) {
      this.placed = panel;
      void this.cases.openStudy().then(this.refresh);
    }
  }

  /** What the panel's buttons do. */
  actions() {
    const { drawing, saving, cases, training, overlay, guarded } = this;
    return {
      label: () => drawing.chooseLabel(),
      look: () => drawing.look(),
      cursor: () => drawing.cross(),
      size: () => drawing.size(),
      tool: tool => drawing.chooseTool(tool),
      undo: () => drawing.undo(),
      redo: () => drawing.redo(),
      copy: () => drawing.copy(),
      interpolate: () => drawing.interpolate(),
      run: () => (cases.running ? cases.running.abort() : guarded(() => cases.run(), true)),
      empty: () => guarded(() => cases.startEmpty()),
      nothing: () => guarded(() => cases.nothingThere()),
      here: () => guarded(() => cases.drawHere()),
      save: () => guarded(() => saving.store()),
      open: () => guarded(() => cases.openVersion()),
      next: () => guarded(() => cases.next()),
      skip: () => guarded(() => cases.next(this.work.study ? this.work.study.case : '')),
      train: () => guarded(() => training.press()),
      overlay: () => guarded(() => overlay.show(), true),
      strength: () => overlay.look(),
    };
  }

  key(event) {
    const field = /^(input|select|textarea)$/i.test(event.target.tagName);
    const typing = field && !['checkbox', 'radio'].includes(event.target.type);
    if (event.key === 'Escape' && this.shown()) {
      this.escape();
      return;
    }
    if (!this.shown() || typing || this.busy) {
      return;
    }
    const { drawing, box, task } = this;
    const pressed = event.key.toLowerCase();
    const tool = TOOLS.find(([, , letter]) => letter === pressed);
    if ((event.ctrlKey || event.metaKey) && 'zy'.includes(pressed)) {
      (pressed === 'z' ? () => drawing.undo() : () => drawing.redo())();
    } else if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    } else if (tool) {
      drawing.chooseTool(tool[0]);
    } else if (task.labels.some(label => String(label.value) === pressed)) {
      box.labels.choose(Number(pressed));
      drawing.chooseLabel();
    } else if (pressed === 'v') {
      box.labels.toggle();
      drawing.look();
    } else if (pressed === 'x') {
      box.cursor.checked = !box.cursor.checked;
      drawing.cross();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** Whatever is being drawn or runs, and can be cancelled, is. */
  escape() {
    if (!this.prompts.drop()) {
      this.cases.running?.abort();
    }
  }

  /** A mode of OHIF's was entered. */
  enter(commandsManager) {
    this.leave();
    const { viewer, work, cases, saving } = this;
    work.leave();
    cases.opening = '';
    this.placed = null;
    viewer.replaceCommands(commandsManager, () => this.guarded(() => saving.store()), this.tell);
    for (const name of ['ACTIVE_VIEWPORT_ID_CHANGED', 'GRID_STATE_CHANGED', 'VIEWPORTS_READY']) {
      viewer.on('viewportGridService', name, () => {
        this.attach();
        void cases.openStudy().then(this.refresh);
      });
    }
    // the grid tells of a change before its state shows it; when a viewport has its images, it does
    viewer.on('cornerstoneViewportService', 'VIEWPORT_DATA_CHANGED', () => {
      this.attach();
      void this.refresh();
    });
    viewer.onDrawn(() => this.shown() && this.drawing.changed());
    this.listening = new AbortController();
    const listen = (target, name, action) =>
      target.addEventListener(name, action, { signal: this.listening.signal, capture: true });
    listen(document, 'keydown', event => this.key(event));
    listen(document, 'pointerdown', event => {
      if (this.shown()) {
        this.drawing.down();
        this.prompts.down(event);
      }
    });
    listen(document, 'pointermove', event => this.prompts.move(event));
    listen(document, 'pointercancel', () => {
      this.drawing.up();
      this.prompts.drop();
    });
    listen(document, 'pointerup', event => {
      this.drawing.up();
      if (this.shown()) {
        this.prompts.up(event);
      }
    });
    listen(window, 'beforeunload', event => {
      if (work.dirty) {
        event.preventDefault();
        event.returnValue = '';
      }
    });
    this.watch = setInterval(() => {
      if (this.shown() && !this.busy && work.draftDue()) {
        saving.keepDraft().catch(error => this.tell(`The draft could not be kept: ${error.message}`, 'error'));
      }
    }, DRAFT_MS);
    this.observer = new MutationObserver(() => this.attach());
    this.observer.observe(document.documentElement, { childList: true, subtree: true });
  }

  /** It was left: nothing of ours goes on. */
  leave() {
    this.viewer.leave();
    this.drawing.leave();
    this.prompts.drop();
    this.listening?.abort();
    this.observer?.disconnect();
    clearInterval(this.watch);
    clearTimeout(this.training.timer);
  }
}

/** What a series' case holds, in words. */
function contents({ modalities, missing, label, model, told }) {
  const absent = missing.length ? `missing: ${missing.join(', ')}` : 'none missing';
  const named = label ? `Label: ${inWords(label)}` : 'No label yet.';
  const served = model ? `Model ${model}.` : 'No model yet.';
  return [`Modalities: ${modalities.join(', ')}; ${absent}. ${served}`, named, ...told].join('\n');
}

if (typeof window !== 'undefined' && window.maml) {
  const app = new App(window.maml);
  window.config.extensions.push({
    id: 'maml',
    preRegistration: managers => app.start(managers),
    onModeEnter: ({ commandsManager }) => app.enter(commandsManager),
    onModeExit: () => app.leave(),
  });
}
