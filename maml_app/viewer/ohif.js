/** OHIF as it is used here: its services, a stack viewport a modality, labelmaps by series, stock doors that close. */

import { sliceName } from './slices.js';

const LABELMAP = 'Labelmap';
const TOOL_GROUPS = ['default', 'mpr'];
const PROTOCOL = 'maml';
const LABEL = 'maml-';
const OVERLAY = 'over-';
const SCROLLED = 'maml';
export const PROMPTS = ['Click', 'Scribble']; // tools of our own: OHIF's draw nothing meanwhile
const ARRIVES_MS = 20000; // so long an image may take to be shown; then a series is done without
const CROSS = 'rgb(255, 210, 60)';

export class Viewer {
  constructor(managers, task) {
    this.managers = managers;
    this.task = task;
    this.undo = []; // subscriptions
    this.arranged = 0;
    this.hidden = new Set(); // values of labels that are not shown
  }

  service(name) {
    return this.managers.servicesManager.services[name];
  }

  notify(title, message, type) {
    const duration = type === 'error' ? 12000 : 5000;
    this.service('uiNotificationService').show({ title, message, type, duration });
  }

  on(name, event, action) {
    const service = this.service(name);
    if (service.EVENTS[event]) {
      this.undo.push(service.subscribe(service.EVENTS[event], action));
    }
  }

  leave() {
    this.undo.forEach(subscription => subscription.unsubscribe());
    this.undo = [];
  }

  /** The series in the active viewport, or null. */
  active() {
    const grid = this.service('viewportGridService').getState();
    return this.shown(grid.activeViewportId);
  }

  shown(viewportId) {
    const viewport = this.service('viewportGridService').getState().viewports.get(viewportId);
    const uid = viewport && viewport.displaySetInstanceUIDs && viewport.displaySetInstanceUIDs[0];
    const displaySet = uid && this.service('displaySetService').getDisplaySetByUID(uid);
    return displaySet ? { displaySet, series: displaySet.SeriesInstanceUID, viewportId } : null;
  }

  /** What each viewport shows. */
  views() {
    const ids = [...this.service('viewportGridService').getState().viewports.keys()];
    return ids.map(id => this.shown(id)).filter(Boolean);
  }

  cornerstone(viewportId) {
    return this.service('cornerstoneViewportService').getCornerstoneViewport(viewportId);
  }

  /** Whether a viewport shows slices as they were acquired, and no reformat: only there is anything drawn. */
  acquired(viewportId) {
    const viewport = this.cornerstone(viewportId);
    return Boolean(viewport) && viewport.type === window.cornerstone.Enums.ViewportType.STACK;
  }

  /** The name of the slice that a viewport shows, and of the next one. */
  slicesAt(viewportId) {
    const viewport = this.cornerstone(viewportId);
    const ids = viewport.getImageIds();
    const place = viewport.getCurrentImageIdIndex();
    return [place, place + 1].map(index => sliceName(ids[index]));
  }

  goTo(viewportId, name) {
    const viewport = this.cornerstone(viewportId);
    const place = viewport.getImageIds().findIndex(id => sliceName(id) === name);
    if (place >= 0) {
      viewport.setImageIdIndex(place);
    }
  }

  /** A viewport for each modality of a case, side by side, as acquired, scrolled together by place. */
  async arrange(series) {
    const names = Object.keys(series).slice(0, 6);
    const columns = names.length > 3 ? Math.ceil(names.length / 2) : names.length;
    const selectors = {};
    for (const name of names) {
      const rule = { weight: 1, attribute: 'SeriesInstanceUID', constraint: { equals: { value: series[name] } } };
      selectors[name] = { seriesMatchingRules: [{ ...rule, required: true }] };
    }
    const viewports = names.map(name => ({
      viewportOptions: {
        viewportId: `maml-${name}`,
        viewportType: 'stack',
        toolGroupId: 'default',
        initialImageOptions: { preset: 'middle' },
        allowUnmatchedView: true, // another series may be dropped onto it
        syncGroups: [{ type: 'imageSlice', id: SCROLLED, source: true, target: true }],
      },
      displaySets: [{ id: name }],
    }));
    const properties = { rows: names.length > 3 ? 2 : 1, columns };
    const viewportStructure = { layoutType: 'grid', properties };
    this.arranged += 1; // a protocol that is known already would not be looked at again
    const protocolId = `${PROTOCOL}-${this.arranged}`;
    this.service('hangingProtocolService').addProtocol(protocolId, {
      id: protocolId,
      name: this.task.title,
      protocolMatchingRules: [],
      toolGroupIds: ['default'],
      displaySetSelectors: selectors,
      stages: [{ name: 'by modality', viewportStructure, viewports }],
    });
    await this.managers.commandsManager.runCommand('setHangingProtocol', { protocolId });
    await this.arrived(names.map(name => series[name]));
  }

  /** Wait until each of these series is shown with an image: on a slow machine that takes a while. */
  async arrived(wanted) {
    const hasImage = ({ viewportId }) =>
      this.acquired(viewportId) && window.cornerstone.cache.getImage(this.cornerstone(viewportId).getCurrentImageId());
    for (const end = Date.now() + ARRIVES_MS; Date.now() < end; ) {
      const there = this.views().filter(hasImage);
      if (wanted.every(uid => there.some(view => view.series === uid))) {
        return;
      }
      await new Promise(resolve => setTimeout(resolve, 100));
    }
  }

  /** Grey values as readers of each kind of image expect them at first. */
  setWindow(viewportId, kind, range) {
    const viewport = this.cornerstone(viewportId);
    if (!viewport || !this.acquired(viewportId)) {
      return;
    }
    if (kind === 'CT' && range) {
      viewport.setProperties({ voiRange: { lower: range[0], upper: range[1] } });
    } else if (kind === 'PET') {
      const { maxPixelValue = 0 } = window.cornerstone.cache.getImage(viewport.getCurrentImageId()) || {};
      const upper = maxPixelValue > 1 && maxPixelValue < 200 ? 10 : maxPixelValue;
      viewport.setProperties({ voiRange: { lower: 0, upper }, invert: true });
    }
    viewport.render();
  }

  segmentationId(series) {
    return LABEL + series;
  }

  /** Voxels of a series' labelmap, by slice name; null if it has none. */
  planes(series) {
    return this.voxels(this.segmentationId(series));
  }

  voxels(segmentationId) {
    const slices = this.slices(segmentationId);
    return slices && new Map(slices.map(slice => [sliceName(slice.referencedImageId), slice.getPixelData()]));
  }

  /** The slices of a labelmap, each with the image that it lies on; null if there is none. */
  slices(segmentationId) {
    const found = window.cornerstoneTools.segmentation.state.getSegmentation(segmentationId);
    return found ? found.representationData[LABELMAP].imageIds.map(id => window.cornerstone.cache.getImage(id)) : null;
  }

  /** Wait until the images below a labelmap are there. */
  async loaded(segmentationId) {
    const images = this.slices(segmentationId).map(slice => slice.referencedImageId);
    await Promise.all(images.map(id => window.cornerstone.imageLoader.loadAndCacheImage(id)));
  }

  /** The labelmap of a series, made if there is none. */
  async labelmap(view) {
    if (!this.planes(view.series)) {
      const segments = {};
      this.task.labels.forEach((label, index) => {
        segments[label.value] = {
          segmentIndex: label.value,
          label: label.name,
          active: index === 0,
          locked: false,
          color: [...label.colour, 255],
        };
      });
      const options = {
        segmentationId: this.segmentationId(view.series),
        label: view.displaySet.SeriesDescription || view.series,
        segments,
      };
      await this.service('segmentationService').createLabelmapForDisplaySet(view.displaySet, options);
    }
    await this.show();
    return this.planes(view.series);
  }

  /** Planes for an overlay on a series, in these colours (value -> RGB), shown below its label. */
  async overlay(view, colours) {
    const id = OVERLAY + view.series;
    const segmentations = this.service('segmentationService');
    if (!this.voxels(id)) {
      const segments = {};
      colours.forEach((colour, segmentIndex) => {
        segments[segmentIndex] = {
          segmentIndex,
          label: `level ${segmentIndex}`,
          locked: true,
          color: [...colour, 255],
        };
      });
      const options = { segmentationId: id, label: 'Overlay', segments };
      await segmentations.createLabelmapForDisplaySet(view.displaySet, options);
    }
    await segmentations.addSegmentationRepresentation(view.viewportId, { segmentationId: id, type: LABELMAP });
    colours.forEach((colour, value) => segmentations.setSegmentColor(view.viewportId, id, value, [...colour, 255]));
    await this.show();
    return this.voxels(id);
  }

  dropOverlays() {
    const segmentations = this.service('segmentationService');
    for (const { viewportId } of this.views()) {
      for (const { segmentationId } of segmentations.getSegmentationRepresentations(viewportId)) {
        if (segmentationId.startsWith(OVERLAY)) {
          segmentations.removeSegmentationRepresentations(viewportId, { segmentationId });
        }
      }
    }
  }

  lookOverlay(strength) {
    for (const { viewportId, series } of this.views()) {
      const which = { type: LABELMAP, viewportId, segmentationId: OVERLAY + series };
      const style = { renderFill: true, renderOutline: false, fillAlpha: strength, fillAlphaInactive: strength };
      window.cornerstoneTools.segmentation.config.style.setStyle(which, { ...style, renderOutlineInactive: false });
    }
    this.render();
  }

  render() {
    for (const element of window.cornerstone.getEnabledElements()) {
      element.viewport.render();
    }
  }

  /** Every viewport shows the labelmap of its own series, and no other. */
  async show() {
    const segmentations = this.service('segmentationService');
    for (const { viewportId, series } of this.views()) {
      const own = this.segmentationId(series);
      const shown = segmentations.getSegmentationRepresentations(viewportId).map(one => one.segmentationId);
      for (const id of new Set(shown)) {
        if ((id.startsWith(LABEL) && id !== own) || (id.startsWith(OVERLAY) && id !== OVERLAY + series)) {
          segmentations.removeSegmentationRepresentations(viewportId, { segmentationId: id });
        }
      }
      if (this.planes(series)) {
        if (!shown.includes(own)) {
          await segmentations.addSegmentationRepresentation(viewportId, { segmentationId: own, type: LABELMAP });
        }
        for (const label of this.task.labels) {
          segmentations.setSegmentColor(viewportId, own, label.value, [...label.colour, 255]);
        }
        segmentations.setActiveSegmentation(viewportId, own);
        this.hide(viewportId, series);
      }
    }
  }

  changed(series, overlay = false) {
    const detail = { segmentationId: overlay ? OVERLAY + series : this.segmentationId(series), ours: true };
    const name = window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
    window.cornerstone.triggerEvent(window.cornerstone.eventTarget, name, detail);
  }

  /** Tell when the viewer itself has changed a label. */
  onDrawn(action) {
    const { eventTarget } = window.cornerstone;
    const name = window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
    const told = ({ detail }) => !detail.ours && detail.segmentationId.startsWith(LABEL) && action();
    eventTarget.addEventListener(name, told);
    this.undo.push({ unsubscribe: () => eventTarget.removeEventListener(name, told) });
  }

  /** Draw with one label; neither brush nor eraser changes those that are locked. */
  choose(value, locked) {
    for (const { series } of this.views()) {
      if (this.planes(series)) {
        const id = this.segmentationId(series);
        this.service('segmentationService').setActiveSegment(id, value);
        for (const label of this.task.labels) {
          const { segmentLocking } = window.cornerstoneTools.segmentation;
          segmentLocking.setSegmentIndexLocked(id, label.value, locked.has(label.value));
        }
      }
    }
  }

  /** How strongly labels cover the images, and which are hidden. */
  look(hidden, opacity) {
    this.hidden = hidden;
    const { config } = window.cornerstoneTools.segmentation;
    config.style.setStyle({ type: LABELMAP }, { fillAlpha: opacity });
    for (const { viewportId, series } of this.views()) {
      this.hide(viewportId, series);
    }
    this.render();
  }

  hide(viewportId, series) {
    const { visibility } = window.cornerstoneTools.segmentation.config;
    const which = { segmentationId: this.segmentationId(series), type: LABELMAP };
    for (const { value } of this.planes(series) ? this.task.labels : []) {
      visibility.setSegmentIndexVisibility(viewportId, which, value, !this.hidden.has(value));
    }
  }

  /** The mouse's place on every series, each on its slice nearest to it; they are then not scrolled by slices too. */
  crossHairs(on) {
    const { ReferenceCursors, SynchronizerManager, ToolGroupManager, addTool, state } = window.cornerstoneTools;
    const { toolName } = ReferenceCursors;
    if (!state.tools[toolName]) {
      addTool(ReferenceCursors);
    }
    for (const group of TOOL_GROUPS.map(id => ToolGroupManager.getToolGroup(id)).filter(Boolean)) {
      if (!group.toolOptions[toolName]) {
        group.addTool(toolName);
        const { style } = window.cornerstoneTools.annotation.config;
        const colours = { ...style.getToolGroupToolStyles(group.id), [toolName]: { color: CROSS, lineWidth: '2' } };
        style.setToolGroupToolStyles(group.id, colours);
      }
      group[on ? 'setToolActive' : 'setToolDisabled'](toolName);
    }
    SynchronizerManager.getSynchronizer(SCROLLED)?.setEnabled(!on);
    this.render();
  }

  /** Where a mouse event is: the viewport and the place (LPS, mm); null where no series is shown as acquired. */
  placeAt({ target, clientX, clientY }) {
    for (const { viewportId } of this.views()) {
      const viewport = this.cornerstone(viewportId);
      // before a viewport is active, what lies around it gets the events
      if (
        viewport &&
        this.acquired(viewportId) &&
        (viewport.element.contains(target) || target.contains(viewport.element))
      ) {
        const { left, right, top, bottom } = viewport.canvas.getBoundingClientRect();
        if (left <= clientX && clientX < right && top <= clientY && clientY < bottom) {
          return { viewportId, place: [...viewport.canvasToWorld([clientX - left, clientY - top])] };
        }
      }
    }
    return null;
  }

  activate(viewportId) {
    this.service('viewportGridService').setActiveViewportId(viewportId);
  }

  useTool(tool, size) {
    const toolName = PROMPTS.includes(tool) ? 'WindowLevel' : tool; // with Click a drag still changes the window
    for (const toolGroupId of TOOL_GROUPS) {
      this.managers.commandsManager.runCommand('setToolActive', { toolName, toolGroupId });
      window.cornerstoneTools.utilities.segmentation.setBrushSizeForToolGroup(toolGroupId, size);
    }
  }

  /** The viewer's own "Export DICOM SEG": ours is saved as the label; others go to the archive. */
  replaceCommands(commandsManager, save, tell) {
    const storeSegmentation = async ({ segmentationId: id }) => {
      if (id.startsWith(LABEL)) {
        return save();
      }
      const found = this.service('segmentationService').getSegmentation(id);
      const options = { SeriesDescription: (found && found.label) || 'Segmentation' };
      const command = { segmentationId: id, options };
      await this.loaded(id); // OHIF reads them all, those too that nobody has looked at yet
      const generated = await this.managers.commandsManager.runCommand('generateSegmentation', command);
      const [archive] = this.managers.extensionManager.getActiveDataSource();
      await archive.store.dicom(generated.dataset);
      return tell('Stored in the archive. It is no label of this task; import-labels takes it over as one.', 'success');
    };
    for (const context of Object.values(commandsManager.contexts)) {
      if (context.storeSegmentation) {
        const commandFn = options => storeSegmentation(options).catch(error => tell(error.message, 'error'));
        context.storeSegmentation = { ...context.storeSegmentation, commandFn };
      }
    }
  }
}
