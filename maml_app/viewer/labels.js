/** The labels of a task as a list: which one is drawn, protected, shown, and how much there is of each. */

import { make } from './page.js';

/** `on.label` is called when another one is drawn or protected, `on.look` when one is shown or hidden. */
export class Labels {
  constructor(labels, on) {
    this.rows = new Map(labels.map((label, index) => [label.value, row(label, index === 0, on)]));
    const names = ['', 'label', 'protect', 'show', 'ml'].map(name => make('th', { style: 'font-weight:normal' }, name));
    const cells = [...this.rows.values()].map(({ root }) => root);
    this.root = make('table', { 'data-maml': 'labels', style: 'font-size:12px;width:100%' }, head(names), ...cells);
  }

  get chosen() {
    const [value] = [...this.rows].find(([, { draw }]) => draw.checked);
    return value;
  }

  choose(value) {
    this.rows.get(value).draw.checked = true;
  }

  /** What neither brush nor eraser changes: labels that are protected, but for the one that is drawn. */
  get locked() {
    return this.values(({ draw, protect }) => protect.checked && !draw.checked);
  }

  get hidden() {
    return this.values(({ show }) => !show.checked);
  }

  /** Show all of them, or, if all are shown, none. */
  toggle() {
    const shown = this.hidden.size > 0;
    this.rows.forEach(({ show }) => {
      show.checked = shown;
    });
  }

  /** `ml`: label value -> millilitres; null before there is a drawing. */
  tell(ml) {
    this.rows.forEach(({ volume }, value) => {
      volume.textContent = ml ? ml(value).toFixed(2) : '';
    });
  }

  values(meant) {
    return new Set([...this.rows].filter(([, made]) => meant(made)).map(([value]) => value));
  }
}

function head(names) {
  return make('tr', { style: 'text-align:left;opacity:0.7' }, ...names);
}

function row({ name, value, colour }, first, on) {
  const box = (kind, words, change) =>
    make('input', { type: 'checkbox', checked: '', 'aria-label': words, [`data-${kind}`]: name, change });
  const made = {
    draw: make('input', { type: 'radio', name: 'maml-label', 'data-draw': name, id: `maml-draw-${value}` }),
    protect: box('protect', `Protect ${name} while another label is drawn`, on.label),
    show: box('show', `Show ${name}`, on.look),
    volume: make('td', { 'data-volume': name }),
  };
  made.draw.checked = first;
  made.draw.addEventListener('change', on.label);
  const swatch = make('span', { style: `color:rgb(${colour.join(',')})` }, '■ ');
  const named = make('label', { for: `maml-draw-${value}`, title: `Key ${value}` }, swatch, name);
  const cells = [made.draw, named, made.protect, made.show].map(part => make('td', {}, part));
  made.root = make('tr', {}, ...cells, made.volume);
  return made;
}
