/*
 * The OHIF side of maml_app: one segmentation a series, brush and eraser, and a button that saves.
 *
 * The server appends this file to OHIF's app-config.js, after `window.maml`: the task's model, title, modalities and
 * labels. OHIF takes extension objects there, so nothing of OHIF is rebuilt. The stock MONAI Label panel stays; its Run
 * button is answered here, because the stock code has one labelmap for all series of a study.
 *
 * Slices are matched by their WADO-RS names (INSTANCE/frames/NUMBER), never by position: a mask cannot end up on
 * another series, nor upside down.
 */
(() => {
  'use strict';

  const task = window.maml;
  const LABELMAP = 'Labelmap';
  const TOOL_GROUPS = ['default', 'mpr'];
  const proposals = new Map(); // SeriesInstanceUID -> model version of the proposal in its segmentation
  const known = new Map(); // SeriesInstanceUID -> what the server says of it, promised
  let managers = null;
  let box = null;
  let busy = false;
  let opened = ''; // the study whose reference series was shown
  let connected = null; // the stock panel that was connected to this server

  const service = name => managers.servicesManager.services[name];
  const segmentationId = series => `maml-${series}`;
  const sliceOf = imageId => (imageId.match(/instances\/([^/]+\/frames\/\d+)/) || [])[1];

  function tell(message, type) {
    service('uiNotificationService').show({
      title: task.title,
      message,
      type,
      duration: type === 'error' ? 12000 : 5000,
    });
    if (box) {
      box.message.textContent = message;
      box.message.dataset.type = type;
    }
  }

  async function ask(path, options) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error('The server cannot be reached.');
    }
    if (answer.ok) {
      return answer;
    }
    const text = await answer.text();
    let detail = text;
    try {
      detail = JSON.parse(text).detail || text;
    } catch {
      // not JSON: shown as it is
    }
    throw new Error(typeof detail === 'string' ? detail : JSON.stringify(detail));
  }

  /** The series in the active viewport, or null. */
  function active() {
    const grid = service('viewportGridService').getState();
    const viewport = grid.viewports.get(grid.activeViewportId);
    const uid = viewport && viewport.displaySetInstanceUIDs && viewport.displaySetInstanceUIDs[0];
    const displaySet = uid && service('displaySetService').getDisplaySetByUID(uid);
    return displaySet ? { displaySet, series: displaySet.SeriesInstanceUID, viewportId: grid.activeViewportId } : null;
  }

  /** Slice images of a series' segmentation, by slice name; null if it has none. */
  function slicesOf(series) {
    const found = window.cornerstoneTools.segmentation.state.getSegmentation(segmentationId(series));
    if (!found) {
      return null;
    }
    const images = found.representationData[LABELMAP].imageIds.map(id => window.cornerstone.cache.getImage(id));
    return new Map(images.map(image => [sliceOf(image.referencedImageId), image]));
  }

  async function segmentationOf({ displaySet, series, viewportId }) {
    if (!slicesOf(series)) {
      const segments = {};
      task.labels.forEach((label, index) => {
        segments[label.value] = {
          segmentIndex: label.value,
          label: label.name,
          active: index === 0,
          locked: false,
          color: [...label.colour, 255],
        };
      });
      const options = {
        segmentationId: segmentationId(series),
        label: displaySet.SeriesDescription || series,
        segments,
      };
      await service('segmentationService').createLabelmapForDisplaySet(displaySet, options);
    }
    await show();
    service('segmentationService').setActiveSegmentation(viewportId, segmentationId(series));
    chooseLabel();
    return slicesOf(series);
  }

  /** Every viewport shows the segmentation of its own series, and no other. */
  async function show() {
    const segmentations = service('segmentationService');
    for (const [viewportId, viewport] of service('viewportGridService').getState().viewports) {
      const uid = viewport.displaySetInstanceUIDs && viewport.displaySetInstanceUIDs[0];
      const displaySet = uid && service('displaySetService').getDisplaySetByUID(uid);
      const own = displaySet && segmentationId(displaySet.SeriesInstanceUID);
      const shown = segmentations.getSegmentationRepresentations(viewportId).map(one => one.segmentationId);
      for (const id of new Set(shown)) {
        if (id.startsWith('maml-') && id !== own) {
          segmentations.removeSegmentationRepresentations(viewportId, { segmentationId: id });
        }
      }
      if (displaySet && slicesOf(displaySet.SeriesInstanceUID)) {
        if (!shown.includes(own)) {
          await segmentations.addSegmentationRepresentation(viewportId, { segmentationId: own, type: LABELMAP });
        }
        for (const label of task.labels) {
          segmentations.setSegmentColor(viewportId, own, label.value, [...label.colour, 255]);
        }
        segmentations.setActiveSegmentation(viewportId, own);
      }
    }
  }

  function changed(series) {
    const detail = { segmentationId: segmentationId(series) };
    const name = window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
    window.cornerstone.triggerEvent(window.cornerstone.eventTarget, name, detail);
  }

  /** Voxels of an uncompressed uint8 NRRD file. */
  function nrrdVoxels(buffer) {
    const bytes = new Uint8Array(buffer);
    let end = 0;
    while (end + 1 < bytes.length && !(bytes[end] === 10 && bytes[end + 1] === 10)) {
      end += 1;
    }
    const header = new TextDecoder().decode(bytes.subarray(0, end));
    const sizes = (header.match(/^sizes: (.*)$/m) || ['', ''])[1].trim().split(/\s+/).map(Number);
    const voxels = bytes.subarray(end + 2);
    if (!/^encoding: raw$/m.test(header) || sizes.length !== 3 || voxels.length !== sizes[0] * sizes[1] * sizes[2]) {
      throw new Error('The server sent a mask that cannot be read.');
    }
    return voxels;
  }

  async function run() {
    const view = active();
    if (!view) {
      throw new Error('Show a series first.');
    }
    tell('Segmenting …', 'info');
    const info = await (await ask(`/maml/series/${view.series}`)).json();
    known.set(view.series, Promise.resolve(info));
    const form = new FormData();
    const wanted = { result_extension: '.nrrd', result_dtype: 'uint8', result_compress: false };
    form.append('params', JSON.stringify(wanted));
    const path = `/infer/${task.model}?image=${view.series}&output=all`;
    const parts = await (await ask(path, { method: 'POST', body: form })).formData();
    const params = JSON.parse(await text(parts.get('params')));
    const voxels = nrrdVoxels(await parts.get('image').arrayBuffer());
    const images = await segmentationOf(view);
    const size = voxels.length / info.slices.length;
    if (
      images.size !== info.slices.length ||
      info.slices.some(name => !images.has(name) || pixels(images, name).length !== size)
    ) {
      throw new Error('The series in the viewer is not the one that the server has; open the study again.');
    }
    info.slices.forEach((name, index) => pixels(images, name).set(voxels.subarray(index * size, (index + 1) * size)));
    proposals.set(view.series, params.model_version);
    changed(view.series);
    const missing = params.modalities_missing.length ? `; missing: ${params.modalities_missing.join(', ')}` : '';
    tell(`Proposal of model ${params.model_version} from ${params.modalities_used.join(', ')}${missing}.`, 'success');
  }

  const text = part => (typeof part === 'string' ? part : part.text());
  const pixels = (images, name) => images.get(name).getPixelData();

  async function save() {
    const view = active();
    const images = view && slicesOf(view.series);
    if (!images) {
      throw new Error('There is nothing to save for this series: run the model on it, or start empty.');
    }
    const names = [...images.keys()];
    const form = new FormData();
    form.append('voxels', new Blob(names.map(name => new Uint8Array(pixels(images, name)))), 'voxels');
    form.append('slices', JSON.stringify(names));
    const model = proposals.get(view.series);
    form.append('params', JSON.stringify(model ? { model_version: model } : { drawn: 'MANUAL' }));
    tell('Saving …', 'info');
    const answer = await (await ask(`/maml/series/${view.series}/label`, { method: 'PUT', body: form })).json();
    const volumes = Object.entries(answer.volume_ml).map(([name, ml]) => `${name} ${ml} ml`);
    tell(`Saved as the label of this case, on ${answer.modality}: ${volumes.join(', ')}.`, 'success');
    known.delete(view.series);
  }

  async function startEmpty() {
    const view = active();
    if (!view) {
      throw new Error('Show a series first.');
    }
    const images = await segmentationOf(view);
    images.forEach(image => image.getPixelData().fill(0));
    proposals.delete(view.series);
    changed(view.series);
    tell('An empty segmentation: draw with the brush, or save it as it is if there is nothing to draw.', 'info');
  }

  /** Ask which case to do next; its reason and picture are shown before anything is left. */
  async function nextCase() {
    const options = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' };
    const next = await (await ask('/activelearning/random', options)).json();
    if (!next.id) {
      tell('No case waits for a label.', 'success');
      return;
    }
    tell(`Next: ${next.PatientID || next.id}. ${next.reason}`, 'info');
    const address = new URL(window.location.href);
    address.searchParams.set('StudyInstanceUIDs', next.StudyInstanceUID);
    const link = make('a', { href: address.href, style: 'color:#5acce6;text-decoration:underline' }, 'Open it');
    box.message.append(' ', link);
    if (next.picture) {
      box.message.append(make('img', { src: next.picture, alt: 'where the experts disagree', style: 'width:100%' }));
    }
  }

  /** Nothing else starts while something runs; what goes wrong is shown. */
  async function guarded(action) {
    if (busy) {
      return;
    }
    busy = true;
    try {
      await action();
    } catch (error) {
      tell(error.message, 'error');
    } finally {
      busy = false;
      await refresh();
    }
  }

  function chooseLabel() {
    const view = active();
    if (view && slicesOf(view.series)) {
      service('segmentationService').setActiveSegment(segmentationId(view.series), Number(box.label.value));
    }
  }

  function chooseTool(toolName) {
    const size = Number(box.size.value);
    for (const toolGroupId of TOOL_GROUPS) {
      managers.commandsManager.runCommand('setToolActive', { toolName, toolGroupId });
      window.cornerstoneTools.utilities.segmentation.setBrushSizeForToolGroup(toolGroupId, size);
    }
    box.tools.forEach((button, name) => button.setAttribute('aria-pressed', String(name === toolName)));
  }

  /** Say which series is active and what its case holds. */
  async function refresh() {
    const view = managers && box && active();
    if (!view) {
      return;
    }
    if (!known.has(view.series)) {
      const failed = error => ({ error: error.message });
      known.set(
        view.series,
        ask(`/maml/series/${view.series}`).then(answer => answer.json(), failed),
      );
    }
    const info = await known.get(view.series);
    if (!active() || active().series !== view.series) {
      return; // another series was chosen meanwhile
    }
    box.series.textContent = `Series: ${view.displaySet.SeriesDescription || view.series}`;
    box.state.textContent = info.error || contents(info);
    await show();
  }

  function contents({ modalities, missing, labelled, told }) {
    const absent = missing.length ? `missing: ${missing.join(', ')}` : 'none missing';
    const used = `Used: ${modalities.join(', ')}; ${absent}. ${labelled ? 'Labelled.' : 'No label yet.'}`;
    return [used, ...told].join('\n');
  }

  /** A study may open on a localizer: show the case's reference series instead, once. */
  async function showReference() {
    const view = active();
    if (!view || opened === view.displaySet.StudyInstanceUID) {
      return;
    }
    opened = view.displaySet.StudyInstanceUID;
    const study = await ask(`/maml/study/${opened}`).then(
      answer => answer.json(),
      () => null,
    );
    if (!study || Object.values(study.series).includes(view.series)) {
      return;
    }
    const found = service('displaySetService').getDisplaySetsForSeries(study.reference)[0];
    if (found) {
      const update = service('hangingProtocolService').getViewportsRequireUpdate(
        view.viewportId,
        found.displaySetInstanceUID,
      );
      service('viewportGridService').setDisplaySetsForViewports(update);
    }
  }

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === 'function') {
        element.addEventListener(name, value);
      } else {
        element.setAttribute(name, value);
      }
    }
    element.append(...children);
    return element;
  }

  function build() {
    const style = 'background:#0a69b9;color:white;border:0;border-radius:4px;padding:3px 8px;margin:2px;cursor:pointer';
    const button = (name, attributes, action) =>
      make('button', { type: 'button', style, ...attributes, click: action }, name);
    const options = task.labels.map(label => make('option', { value: label.value }, label.name));
    const dark = 'background:#041c4a;color:white;border:1px solid #0a69b9;border-radius:4px;margin:2px';
    const made = {
      series: make('div', { 'data-maml': 'series', style: 'overflow-wrap:anywhere' }),
      state: make('div', { 'data-maml': 'state', style: 'white-space:pre-line' }),
      label: make(
        'select',
        { 'data-maml': 'label', 'aria-label': 'Label to draw', style: dark, change: chooseLabel },
        ...options,
      ),
      size: make('input', {
        'data-maml': 'size',
        'aria-label': 'Brush radius, mm',
        title: 'Brush radius, mm',
        type: 'number',
        min: 1,
        max: 60,
        value: 8,
        style: `${dark};width:56px;padding:2px 4px`,
        change: () => chooseTool(current()),
      }),
      message: make('div', { 'data-maml': 'message', role: 'status', style: 'min-height:2.5em;margin-top:4px' }),
      tools: new Map(),
    };
    const current = () =>
      ([...made.tools].find(([, one]) => one.getAttribute('aria-pressed') === 'true') || ['WindowLevel'])[0];
    for (const [tool, name] of [
      ['CircularBrush', 'Brush'],
      ['CircularEraser', 'Eraser'],
      ['WindowLevel', 'Look'],
    ]) {
      made.tools.set(
        tool,
        button(name, { 'data-maml': tool, 'aria-pressed': 'false' }, () => chooseTool(tool)),
      );
    }
    made.root = make(
      'section',
      { id: 'maml', style: 'flex:none;color:white;font-size:13px;padding:8px;border-bottom:1px solid #0a69b9' },
      make('strong', {}, task.title),
      made.series,
      made.state,
      make('div', {}, made.label, ...made.tools.values(), made.size, ' mm'),
      make(
        'div',
        {},
        button('Segment this series', { 'data-maml': 'run' }, () => guarded(run)),
        button('Start empty', { 'data-maml': 'empty' }, () => guarded(startEmpty)),
        button('Next case', { 'data-maml': 'next' }, () => guarded(nextCase)),
      ),
      button(
        'Save as final label',
        { 'data-maml': 'save', style: `${style};background:#1a7f37;font-weight:bold` },
        () => guarded(save),
      ),
      made.message,
    );
    return made;
  }

  /** Put our box above the stock panel whenever that appears; connect that to this server once there are images. */
  function attach() {
    const panel = document.querySelector('.monaiLabelPanel');
    if (!managers || !panel) {
      return;
    }
    if (!box || !box.root.isConnected) {
      box = box || build();
      panel.parentElement.insertBefore(box.root, panel);
    }
    // the stock code fails when it is connected before a viewport has a series
    if (connected !== panel && active()) {
      connected = panel;
      const connect = panel.querySelector('.settingsTable button.actionButton');
      if (connect) {
        connect.click();
      }
      void showReference().then(refresh);
    }
  }

  /** The stock panel's Run button draws into one labelmap for all series; ours does not. */
  function answerStockRun(event) {
    const button = event.target.closest && event.target.closest('.modelSelector button[title="Run Segmentation"]');
    if (button) {
      event.preventDefault();
      event.stopImmediatePropagation();
      guarded(run);
    }
  }

  /** "Export DICOM SEG" in the viewer's menus, which the bundled viewer calls without saying where to. */
  async function storeSegmentation({ segmentationId: id }) {
    if (id.startsWith('maml-')) {
      await guarded(save);
      return;
    }
    await guarded(async () => {
      const found = service('segmentationService').getSegmentation(id);
      const options = { SeriesDescription: (found && found.label) || 'Segmentation' };
      const command = { segmentationId: id, options };
      const generated = await managers.commandsManager.runCommand('generateSegmentation', command);
      const [archive] = managers.extensionManager.getActiveDataSource();
      await archive.store.dicom(generated.dataset);
      tell('Stored in the archive. It is no label of this task; import-labels takes it over as one.', 'success');
    });
  }

  function replaceCommands(commandsManager) {
    for (const context of Object.values(commandsManager.contexts)) {
      const load = context.loadSegmentationsForViewport;
      if (load) {
        const commandFn = options => {
          const first = options && options.segmentations && options.segmentations[0];
          if (!first || first.segmentationId !== '1') {
            return load.commandFn(options);
          }
          // '1' is the stock panel's one labelmap for all series; it colours these segments later, and fails without it
          Object.keys(first.config.segments).forEach(index => delete first.config.segments[index]);
          return undefined;
        };
        context.loadSegmentationsForViewport = { ...load, commandFn };
      }
      if (context.storeSegmentation) {
        context.storeSegmentation = { ...context.storeSegmentation, commandFn: storeSegmentation };
      }
    }
  }

  const extension = {
    id: 'maml',
    preRegistration: given => {
      managers = given;
    },
    onModeEnter: ({ commandsManager }) => {
      proposals.clear();
      known.clear();
      opened = '';
      replaceCommands(commandsManager);
      const grid = service('viewportGridService');
      for (const name of ['ACTIVE_VIEWPORT_ID_CHANGED', 'GRID_STATE_CHANGED', 'VIEWPORTS_READY']) {
        if (grid.EVENTS[name]) {
          grid.subscribe(grid.EVENTS[name], () => {
            attach();
            void showReference().then(refresh);
          });
        }
      }
      // the grid tells of a change before its state shows it; when a viewport has its images, it does
      const viewports = service('cornerstoneViewportService');
      viewports.subscribe(viewports.EVENTS.VIEWPORT_DATA_CHANGED, () => {
        attach();
        void refresh();
      });
    },
  };

  // what the stock panel reads to fill its server field
  document.cookie = `MONAILABEL_SERVER_URL=${escape(`${window.location.origin}/`)}`;
  document.addEventListener('click', answerStockRun, true);
  new MutationObserver(attach).observe(document.documentElement, { childList: true, subtree: true });
  window.config.extensions.push(extension);
})();
