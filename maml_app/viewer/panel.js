/** The annotator's panel: buttons, what is known of the case, what was said. It decides nothing. */

const BUTTON =
  'background:#0a69b9;color:white;border:0;border-radius:4px;padding:3px 8px;margin:2px;cursor:pointer;font:inherit';
const DARK = 'background:#041c4a;color:white;border:1px solid #0a69b9;border-radius:4px;margin:2px;font:inherit';
const PRESSED = '2px solid #ffd23c';

export const TOOLS = [
  ['CircularBrush', 'Brush', 'b'],
  ['SphereBrush', 'Sphere', 's'],
  ['ThresholdCircularBrush', 'Threshold', 't'],
  ['CircleScissor', 'Scissors', 'c'],
  ['CircularEraser', 'Eraser', 'e'],
  ['WindowLevel', 'Look', 'l'],
];

export function make(tag, attributes, ...children) {
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

/** Build the panel; `on` holds what its buttons do, by name. */
export function build(task, on) {
  const button = (name, key, action, style = '') =>
    make('button', { type: 'button', style: BUTTON + style, 'data-maml': key, click: action }, name);
  const group = (...children) => make('div', { style: 'margin:4px 0' }, ...children);
  const made = {
    series: make('div', { 'data-maml': 'series', style: 'overflow-wrap:anywhere' }),
    state: make('div', { 'data-maml': 'state', style: 'white-space:pre-line' }),
    modalities: make('table', { 'data-maml': 'modalities', style: 'font-size:12px;width:100%' }),
    volumes: make('div', { 'data-maml': 'volumes' }),
    saved: make('div', { 'data-maml': 'saved', role: 'status' }),
    message: make('div', { 'data-maml': 'message', role: 'status', style: 'min-height:2.5em;margin-top:4px' }),
    choice: make('div', { 'data-maml': 'choice' }),
    label: make(
      'select',
      { 'data-maml': 'label', 'aria-label': 'Label to draw', style: DARK, change: on.label },
      ...task.labels.map(label => make('option', { value: label.value }, label.name)),
    ),
    protect: make('input', { type: 'checkbox', checked: '', 'data-maml': 'protect', change: on.label }),
    visible: make('input', { type: 'checkbox', checked: '', 'data-maml': 'visible', change: on.look }),
    opacity: make('input', {
      type: 'range',
      min: 0,
      max: 1,
      step: 0.05,
      value: 0.5,
      'aria-label': 'Opacity',
      'data-maml': 'opacity',
      style: 'width:80px;vertical-align:middle',
      input: on.look,
    }),
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
    tools: new Map(),
  };
  for (const [tool, name, key] of TOOLS) {
    const one = button(name, tool, () => on.tool(tool));
    one.setAttribute('aria-pressed', 'false');
    one.title = `${name} (${key.toUpperCase()})`;
    made.tools.set(tool, one);
  }
  made.run = button('Segment this series', 'run', on.run);
  made.root = make(
    'section',
    { id: 'maml', style: 'flex:none;color:white;font-size:13px;padding:8px;overflow-y:auto;max-height:100%' },
    make('strong', {}, task.title),
    made.series,
    made.modalities,
    made.state,
    group(made.run, button('Start empty', 'empty', on.empty), button('Draw here', 'here', on.here)),
    group(made.label, ...made.tools.values(), made.size, ' mm'),
    group(
      make('label', {}, made.protect, ' protect other labels '),
      make('label', {}, made.visible, ' show '),
      made.opacity,
    ),
    group(
      button('Undo', 'undo', on.undo),
      button('Redo', 'redo', on.redo),
      button('Copy to next slice', 'copy', on.copy),
    ),
    made.volumes,
    made.saved,
    group(button('Save as final label', 'save', on.save, ';background:#1a7f37;font-weight:bold')),
    made.choice,
    group(made.versions, button('Open version', 'open', on.open)),
    group(
      button('Next case', 'next', on.next),
      button('Skip', 'skip', on.skip),
      button('Train', 'train', on.train),
      made.training,
    ),
    make('details', {}, make('summary', {}, 'Keys'), keys()),
    made.message,
  );
  return made;
}

function keys() {
  const tools = TOOLS.map(([, name, key]) => `${key.toUpperCase()} ${name.toLowerCase()}`);
  return make('div', {}, [...tools, 'Ctrl+Z undo', 'Ctrl+Y redo', '1–9 label', 'V show or hide'].join(' · '));
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

export function showModalities(made, rows) {
  made.modalities.replaceChildren(
    ...rows.map(row =>
      make('tr', {}, make('td', {}, row.modality), make('td', {}, row.series), make('td', {}, row.note || '')),
    ),
  );
}

export function showVersions(made, versions) {
  made.versions.replaceChildren(...versions.map(({ id, words }) => make('option', { value: id }, words)));
}
