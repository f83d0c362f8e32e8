/** Elements of a page, and how those of the panel look. */

export const BUTTON =
  'background:#0a69b9;color:white;border:0;border-radius:4px;padding:3px 8px;margin:2px;cursor:pointer;font:inherit';
export const DARK = 'background:#041c4a;color:white;border:1px solid #0a69b9;border-radius:4px;margin:2px;font:inherit';

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

export function slider(name, words, value, input) {
  const range = { type: 'range', min: 0, max: 1, step: 0.05, value };
  return make('input', {
    ...range,
    'aria-label': words,
    'data-maml': name,
    style: 'width:80px;vertical-align:middle;appearance:auto;background:none;padding:0',
    input,
  });
}
