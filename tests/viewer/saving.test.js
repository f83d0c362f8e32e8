// What becomes of a draft: it goes with the drawing, however that is given up or saved, or it is told that it did not.
import assert from 'node:assert/strict';
import test from 'node:test';

import { Cases } from '../../maml_app/viewer/cases.js';
import { Saving } from '../../maml_app/viewer/saving.js';
import { Work } from '../../maml_app/viewer/work.js';

const KEEP_MINE = 0;
const KEEP_THEIRS = 1;
const LOOK_AT_THEIRS = 2;
const DROP_IT = 1;

/** As much of a page's element as a question needs. */
class Element {
  constructor() {
    this.children = [];
    this.listeners = {};
  }

  append(...children) {
    this.children.push(...children);
  }

  addEventListener(name, action) {
    this.listeners[name] = action;
  }

  setAttribute() {}

  scrollIntoView() {}
}

/**
 * A person's draft on a server where another has saved final-0002 meanwhile; to a question they answer `pressed`.
 * `failing`: the method of requests that the server refuses.
 */
function workplace(pressed, failing = '') {
  const server = { draft: { image: 'ct', parent: 'final-0001', saved: new Date() }, label: 'final-0002', asked: [] };
  const json = (content, status = 200) => new Response(JSON.stringify(content), { status });
  globalThis.fetch = async (path, { method = 'GET', body } = {}) => {
    server.asked.push(`${method} ${path.split('?')[0]}`);
    if (method === failing) {
      return json({ detail: 'the disk is full' }, 507);
    }
    if (path.endsWith('/draft')) {
      await new Promise(resolve => setTimeout(resolve, 5));
      server.draft = method === 'DELETE' ? null : { image: 'ct', parent: 'final-0001', saved: new Date() };
      return json(server.draft);
    }
    if (path.endsWith('/choose')) {
      const { keep, replaces } = JSON.parse(body);
      if (keep && server.third && replaces !== server.third) {
        const told = { conflict: 'unseen', case: 'c', mine: 'final-0003', theirs: server.third, detail: 'carl' };
        return json(told, 409);
      }
      const copy = server.third ? 'final-0005' : 'final-0003';
      server.label = keep ? copy : 'final-0002';
      return json({ label: `c@${server.label}` });
    }
    if (method === 'PUT') {
      const details = { conflict: 'unseen', case: 'c', mine: 'final-0003', theirs: 'final-0002', detail: 'bob saved' };
      return json(details, 409);
    }
    if (path.includes('/label?label=')) {
      return new Response(Uint8Array.of(1));
    }
    const info = { slices: ['s'], label: { label: server.label }, draft: server.draft };
    return json(path.endsWith('/history') ? [] : info);
  };
  globalThis.document = { createElement: () => new Element() };
  const answering = box => box && box.children.filter(part => part instanceof Element)[pressed].listeners.click();
  const planes = new Map([['s', new Uint8Array(1)]]);
  const viewer = { views: () => [{ series: '1.2' }], labelmap: () => planes, planes: () => planes, changed: () => {} };
  const app = { viewer, work: new Work(viewer), told: '' };
  app.box = { choice: { replaceChildren: answering }, onward: {}, versions: new Element() };
  app.box.versions.replaceChildren = () => {};
  app.tell = message => (app.told = message);
  app.drawing = { chooseLabel: () => {} };
  app.saving = new Saving(app);
  app.cases = new Cases(app);
  app.work.study = { case: 'c', reference: '1.2', series: { ct: '1.2' } };
  app.work.begin('1.2', { words: '', parent: 'final-0001', proposal: '', model: '' }, true);
  return { app, server };
}

for (const [pressed, words, label, told] of [
  [KEEP_MINE, 'mine', 'final-0003', 'final-0003 is the label of this case now.'],
  [KEEP_THEIRS, 'theirs', 'final-0002', 'final-0002 stays the label of this case.'],
  [
    LOOK_AT_THEIRS,
    'a look',
    'final-0002',
    'This is final-0002. Yours is kept as final-0003: open it from the versions.',
  ],
]) {
  test(`after a conflict, ${words}: the label that was chosen is open, and no draft comes back`, async () => {
    const { app, server } = workplace(pressed);
    await app.saving.store();
    assert.equal(app.told, told);
    assert.deepEqual([app.work.dirty, app.work.base.parent, server.draft], [false, label, null]);
    await app.cases.openNewest(await app.work.info('1.2', true));
    assert.deepEqual([app.work.dirty, app.work.base.parent], [false, label]);
  });
}

test('a third label that came meanwhile is told, and the choice is asked for anew', async () => {
  const { app, server } = workplace(KEEP_MINE);
  server.third = 'final-0004';
  await app.saving.store();
  assert.equal(app.told, 'final-0005 is the label of this case now.');
  assert.equal(server.asked.filter(one => one.endsWith('/choose')).length, 2);
  assert.deepEqual([app.work.dirty, app.work.base.parent], [false, 'final-0005']);
});

test('a draft that cannot be dropped stays, is told, and nothing is chosen', async () => {
  const { app, server } = workplace(KEEP_THEIRS, 'DELETE');
  await assert.rejects(app.saving.store(), /could not be dropped, it is still here: the disk is full/);
  assert.ok(app.work.dirty && server.draft && !server.asked.some(one => one.endsWith('/choose')));
});

test('a choice that fails leaves the drawing unsaved, and it is kept anew', async () => {
  const { app } = workplace(KEEP_MINE, 'POST');
  Object.assign(app.work, { touched: 1000, drafted: 2000 });
  await assert.rejects(app.saving.store(), /the disk is full/);
  assert.ok(app.work.dirty && app.work.draftDue());
});

test('what is dropped is dropped on the server too, and a draft on its way does not come after it', async () => {
  const { app, server } = workplace(DROP_IT);
  const kept = app.work.keepDraft();
  assert.equal(await app.saving.mayLeave('Another case is opened.'), true);
  await kept;
  assert.deepEqual([app.work.dirty, server.draft], [false, null]);
  assert.equal(app.work.base.words, 'Dropped, and saved nowhere.');
  app.work.touch(); // drawn on after all: unsaved again
  assert.equal(app.work.draftDue(Date.now() + 20000), true);
});

test('what cannot be dropped is not left', async () => {
  const { app, server } = workplace(DROP_IT, 'DELETE');
  await assert.rejects(app.saving.mayLeave('Another case is opened.'), /could not be dropped/);
  assert.ok(app.work.dirty && server.draft);
});
