/** The annotator's panel: buttons, what is known of the case, what was said. It decides nothing. */

import { BUTTON, DARK, make, slider } from './page.js';
import { Labels } from './labels.js';

// what is told while work goes on has its room, so that no button moves away below the mouse; OHIF undoes min-height
const ROOM = 'height:4.5em;overflow-y:auto';
const MESSAGE = `position:sticky;top:-8px;background:#041c4a;border:1px solid #0a69b9;border-radius:4px;padding:4px;
  box-sizing:content-box;${ROOM}`;
const PRESSED = '2px solid #ffd23c';
const MENDS = {
  Click: ': adds what belongs together around it; with Shift takes away',
  Scribble: ': drag; adds what belongs together along it; with Shift takes away',
};

const GUEST = 'Its answer on the series where the label lies takes the place of the label.';

export const TOOLS = [
  ['Click', 'Click', 'k'],
  ['Scribble', 'Scribble', 'd'],
  ['CircularBrush', 'Brush', 'b'],
  ['SphereBrush', 'Sphere', 's'],
  ['ThresholdCircularBrush', 'Threshold', 't'],
  ['CircleScissor', 'Scissors', 'c'],
  ['CircularEraser', 'Eraser', 'e'],
  ['WindowLevel', 'Look', 'l'],
];

/** Build the panel; `on` holds what its buttons do, by name. */
export function build(task, on) {
  const button = (name, key, action, style = '') =>
    make('button', { type: 'button', style: BUTTON + style, 'data-maml': key, click: action }, name);
  const group = (...children) => make('div', { style: 'margin:4px 0' }, ...children);
  const made = {
    series: make('div', { 'data-maml': 'series', style: 'overflow-wrap:anywhere' }),
    state: make('div', { 'data-maml': 'state', style: 'white-space:pre-line' }),
    modalities: make('table', { 'data-maml': 'modalities', style: 'font-size:12px;width:100%' }),
    saved: make('div', { 'data-maml': 'saved', role: 'status', style: ROOM }),
    message: make('div', { 'data-maml': 'message', role: 'status', style: MESSAGE }),
    choice: make('div', { 'data-maml': 'choice' }),
    labels: new Labels(task.labels, on),
    opacity: slider('opacity', 'Opacity', 0.5, on.look),
    cursor: make('input', { type: 'checkbox', 'data-maml': 'cursor', change: on.cursor }),
    guest: make('input', { type: 'checkbox', 'data-maml': 'guest' }),
    size: make('input', {
      'data-maml': 'size',
      'aria-label': 'Brush radius, mm',
      title: 'Brush radius, mm',
      type: 'number',
      min: 1,
      max: 60,
      value: 8,
      style: `${DARK};width:56px;padding:2px 4px`,
      change: on.size,
    }),
    versions: make('select', { 'data-maml': 'versions', 'aria-label': 'Versions', style: `${DARK};max-width:100%` }),
    training: make('span', { 'data-maml': 'training' }),
    lesions: make('ul', { 'data-maml': 'lesions', style: 'margin:0;max-height:8em;overflow-y:auto' }),
    onward: make('input', { type: 'checkbox', 'data-maml': 'onward' }),
    overlay: make(
      'select',
      { 'data-maml': 'overlay', 'aria-label': 'Overlay', style: DARK, change: on.overlay },
      ...[['', 'no overlay'], ...[...task.modalities, 'uncertainty', 'disagreement'].map(name => [name, name])].map(
        ([value, words]) => make('option', { value }, words),
      ),
    ),
    strength: slider('strength', 'Strength of the overlay', 0.4, on.strength),
    tools: new Map(),
  };
  for (const [tool, name, key] of TOOLS) {
    const one = button(name, tool, () => on.tool(tool));
    one.setAttribute('aria-pressed', 'false');
    one.title = `${name} (${key.toUpperCase()})${MENDS[tool] || ''}`;
    made.tools.set(tool, one);
  }
  made.train = button('Train', 'train', on.train);
  made.run = button('Segment this series', 'run', on.run);
  made.root = make(
    'section',
    { id: 'maml', style: 'flex:none;color:white;font-size:13px;padding:8px;overflow-y:auto;max-height:100%' },
    make('strong', {}, task.title),
    made.message,
    made.choice,
    made.series,
    made.modalities,
    made.state,
    group(
      made.run,
      button('Start empty', 'empty', on.empty),
      button('Draw here', 'here', on.here),
      button('Nothing is there', 'nothing', on.nothing),
    ),
    made.labels.root,
    group(...made.tools.values(), made.size, ' mm'),
    task.guest ? make('label', { title: GUEST }, made.guest, ' nnInteractive answers clicks and scribbles') : '',
    group('Opacity ', made.opacity, make('label', {}, ' ', made.cursor, ' cross-hairs')),
    group(
      button('Undo', 'undo', on.undo),
      button('Redo', 'redo', on.redo),
      button('Copy to next slice', 'copy', on.copy),
      button('Fill between', 'interpolate', on.interpolate),
    ),
    group(made.overlay, made.strength),
    group(
      button('Save as final label', 'save', on.save, ';background:#1a7f37;font-weight:bold'),
      make('label', {}, made.onward, ' then open the next case'),
    ),
    made.saved,
    group(made.versions, button('Open version', 'open', on.open)),
    group(button('Next case', 'next', on.next), button('Skip', 'skip', on.skip), made.train, made.training),
    made.lesions,
    make('details', {}, make('summary', {}, 'Keys'), keys()),
  );
  return made;
}

const OTHER_KEYS = [
  'Ctrl+Z undo',
  'Ctrl+Y redo',
  '1–9 label',
  'V show or hide',
  'X cross-hairs',
  'Shift+click or scribble takes away',
  'Esc cancels',
];

function keys() {
  const tools = TOOLS.map(([, name, key]) => `${key.toUpperCase()} ${name.toLowerCase()}`);
  return make('div', {}, [...tools, ...OTHER_KEYS].join(' · '));
}

export function press(made, tool) {
  made.tools.forEach((button, name) => {
    button.setAttribute('aria-pressed', String(name === tool));
    button.style.outline = name === tool ? PRESSED : '';
  });
}

/** While something runs nothing else can be started; what runs long can be cancelled. */
export function setBusy(made, busy, cancellable = false) {
  for (const button of made.root.querySelectorAll('button')) {
    const stays = cancellable && button === made.run;
    button.disabled = busy && !stays;
    button.style.opacity = button.disabled ? '0.5' : '';
  }
  made.run.textContent = busy && cancellable ? 'Cancel' : 'Segment this series';
}

/** Ask something that must be answered before work goes on; the answer's index, or -1 if the question goes away. */
export function question(made, text, answers) {
  return new Promise(resolve => {
    const answered = index => {
      made.choice.replaceChildren();
      resolve(index);
    };
    const buttons = answers.map((answer, index) =>
      make('button', { type: 'button', style: BUTTON, 'data-answer': answer, click: () => answered(index) }, answer),
    );
    const box = make(
      'div',
      { role: 'alertdialog', style: 'border:1px solid #ffd23c;padding:6px' },
      text,
      ' ',
      ...buttons,
    );
    made.choice.replaceChildren(box);
    box.scrollIntoView({ block: 'nearest' });
  });
}

/** The study's series, what each is taken for and why; `correct(series, modality)` says that it is something else. */
export function showModalities(made, rows, modalities, correct) {
  made.modalities.replaceChildren(
    ...rows.map(row => {
      const choice = row.series && !row.series.includes('#') ? select(row, modalities, correct) : row.modality || '–';
      const note = row.drawn ? 'drawn here' : '';
      return make('tr', { title: row.why }, make('td', {}, choice), make('td', {}, row.words), make('td', {}, note));
    }),
  );
}

function select(row, modalities, correct) {
  const options = ['', ...modalities].map(name => make('option', { value: name }, name || 'not used'));
  const attributes = { style: DARK, 'aria-label': `Modality of ${row.words}`, 'data-series': row.series };
  const made = make('select', { ...attributes, change: () => correct(row.series, made.value) }, ...options);
  made.value = row.modality;
  return made;
}

export function showLesions(made, rows) {
  made.lesions.replaceChildren(
    ...rows.map(row =>
      make('li', {}, make('a', { href: '#', style: 'color:#5acce6', click: jump(row.go) }, row.words)),
    ),
  );
}

const jump = go => event => {
  event.preventDefault();
  go();
};

export function showVersions(made, versions) {
  made.versions.replaceChildren(...versions.map(({ id, words }) => make('option', { value: id }, words)));
}
