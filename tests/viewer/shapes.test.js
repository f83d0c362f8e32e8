// Connected parts, shapes between slices, steps of drawing: pure functions of slices by name.
import assert from 'node:assert/strict';
import test from 'node:test';

import { hot } from '../../maml_app/viewer/overlay.js';
import { interpolate, lesions, signedDistance, thinned } from '../../maml_app/viewer/shapes.js';
import { Steps, ago, copySlice, counts, fill, sliceName } from '../../maml_app/viewer/slices.js';
import { Work, inWords } from '../../maml_app/viewer/work.js';

const COLUMNS = 7; // and 5 rows: no axis is as long as another

function planes(...slices) {
  return new Map(slices.map((voxels, index) => [`s${index}`, Uint8Array.from(voxels)]));
}

function plane(...drawn) {
  const voxels = new Uint8Array(35);
  drawn.forEach(([column, row, value = 1]) => (voxels[row * COLUMNS + column] = value));
  return voxels;
}

const names = map => [...map.keys()];

test('parts are told apart by faces, over slices, and by value', () => {
  // the end of one row is not beside the start of the next
  const drawn = planes(plane([6, 1], [0, 2], [3, 3, 2]), plane([6, 1], [5, 1], [3, 3]), plane([5, 1]));
  assert.deepEqual(lesions(drawn, names(drawn), COLUMNS), [
    { value: 1, voxels: 4, slice: 's1' },
    { value: 1, voxels: 1, slice: 's0' },
    { value: 2, voxels: 1, slice: 's0' },
    { value: 1, voxels: 1, slice: 's1' },
  ]);
});

test('a line keeps its corners and ends, whatever plane it lies in', () => {
  const [a, b, c] = [
    [1, 2, 3],
    [11, 22, -7],
    [41, 2, 3],
  ];
  const between = (from, to) =>
    Array.from({ length: 50 }, (_, i) => from.map((axis, k) => axis + ((to[k] - axis) * i) / 50));
  const line = [...between(a, b), ...between(b, c), c];
  assert.deepEqual(thinned(line, 3), [a, b, c]);
  assert.equal(thinned(line, 100).length, 100);
  assert.deepEqual(thinned([a], 3), [a]);
  assert.equal(line.length, 101);
});

test('distances are Euclidean and signed', () => {
  const away = signedDistance(plane([1, 1]), COLUMNS, 1);
  assert.equal(away[1 * COLUMNS + 1], -1);
  assert.equal(away[1 * COLUMNS + 4], 3);
  assert.ok(Math.abs(away[3 * COLUMNS + 3] - Math.hypot(2, 2)) < 1e-9);
});

test('distances equal those of a search over all pairs', () => {
  const drawn = plane([0, 0], [6, 4], [3, 2], [4, 2], [3, 3]);
  const away = signedDistance(drawn, COLUMNS, 1);
  for (let voxel = 0; voxel < 35; voxel += 1) {
    let nearest = Infinity;
    for (let other = 0; other < 35; other += 1) {
      if (Boolean(drawn[other]) !== Boolean(drawn[voxel])) {
        const [x, y] = [
          (voxel % COLUMNS) - (other % COLUMNS),
          Math.floor(voxel / COLUMNS) - Math.floor(other / COLUMNS),
        ];
        nearest = Math.min(nearest, Math.hypot(x, y));
      }
    }
    assert.ok(Math.abs(away[voxel] - (drawn[voxel] ? -nearest : nearest)) < 1e-9);
  }
});

test('slices between drawn ones are filled with what lies between, and nothing else is changed', () => {
  const square = (x, y) => [0, 1, 2].flatMap(dx => [0, 1, 2].map(dy => [x + dx, y + dy]));
  const drawn = planes(plane(), plane(...square(1, 1)), plane([3, 2, 2]), plane(...square(3, 1)), plane());
  assert.equal(interpolate(drawn, names(drawn), COLUMNS, 1), 1);
  assert.equal(drawn.get('s2')[2 * COLUMNS + 3], 2);
  const filled = drawn.get('s2').reduce((all, value, index) => (value === 1 ? [...all, index] : all), []);
  assert.deepEqual(
    filled.map(index => [index % COLUMNS, Math.floor(index / COLUMNS)]),
    [
      [3, 1],
      [2, 2],
      [4, 2],
      [3, 3],
    ],
  );
  assert.ok(!drawn.get('s0').some(Boolean) && !drawn.get('s4').some(Boolean));
  assert.equal(interpolate(drawn, names(drawn), COLUMNS, 1), 0);
});

test('steps are undone and done again, slice by slice, and a new one ends what was undone', () => {
  const drawn = planes(plane(), plane());
  const steps = new Steps(2);
  steps.reset(drawn);
  assert.deepEqual(steps.take(drawn), []);
  drawn.get('s1')[3] = 1;
  assert.deepEqual(steps.take(drawn), ['s1']);
  drawn.get('s0')[4] = 2;
  steps.take(drawn);
  assert.ok(steps.undo(drawn) && steps.undo(drawn) && !steps.undo(drawn));
  assert.ok(!drawn.get('s0').some(Boolean) && !drawn.get('s1').some(Boolean));
  assert.ok(steps.redo(drawn));
  assert.equal(drawn.get('s1')[3], 1);
  drawn.get('s1')[5] = 1;
  steps.take(drawn);
  assert.ok(!steps.redo(drawn));
  for (const voxel of [6, 7, 8]) {
    drawn.get('s1')[voxel] = 1;
    steps.take(drawn);
  }
  assert.ok(steps.undo(drawn) && steps.undo(drawn) && !steps.undo(drawn)); // no more than its limit
});

test('what comes late belongs to its stroke, and a step that was undone is not added to', () => {
  const drawn = planes(plane(), plane());
  const steps = new Steps();
  steps.reset(drawn);
  drawn.get('s0')[3] = 1;
  steps.take(drawn, 1);
  drawn.get('s0')[4] = 1;
  drawn.get('s1')[4] = 1;
  assert.deepEqual(steps.take(drawn, 1), ['s0', 's1']);
  assert.equal(steps.done.length, 1);
  drawn.get('s0')[5] = 1;
  steps.take(drawn, 2);
  assert.ok(steps.undo(drawn));
  assert.deepEqual([...drawn.get('s0').slice(3, 6)], [1, 1, 0]);
  drawn.get('s0')[6] = 1;
  steps.take(drawn, 2);
  assert.ok(steps.undo(drawn) && steps.undo(drawn) && !steps.undo(drawn));
  assert.ok(!drawn.get('s0').some(Boolean) && !drawn.get('s1').some(Boolean));
});

test('voxels go to the slices of their names, or nowhere', () => {
  const drawn = planes(plane(), plane());
  const voxels = Uint8Array.from([...plane([0, 0, 5]), ...plane([1, 0, 6])]);
  fill(drawn, voxels, ['s1', 's0']);
  assert.deepEqual([drawn.get('s1')[0], drawn.get('s0')[1]], [5, 6]);
  for (const other of [['s1'], ['s1', 's2'], ['s1', 's0', 's2']]) {
    assert.throws(() => fill(drawn, voxels, other), /open the study again/);
  }
  assert.deepEqual([...counts(drawn)].sort(), [
    [5, 1],
    [6, 1],
  ]);
  assert.equal(copySlice(drawn, 's1', 's0', 5), 1);
  assert.equal(copySlice(drawn, 's0', 's1', 5), 0);
  assert.equal(sliceName('wadors:http://a/studies/1/series/2/instances/1.2.3/frames/4'), '1.2.3/frames/4');
});

test('words for people', () => {
  const now = Date.parse('2026-01-01T12:00:00Z');
  assert.equal(ago('2026-01-01T11:59:30Z', now), 'just now');
  assert.equal(ago('2026-01-01T11:48:00Z', now), '12 minutes ago');
  assert.equal(ago('2025-12-31T11:00:00Z', now), '1 day ago');
  const label = { label: 'final-0003', author: 'anna', saved: new Date().toISOString(), changed_ml: 1.2, image: 'ct' };
  assert.equal(inWords(label), 'final-0003, just now, by anna, corrected by 1.2 ml, on ct');
  assert.equal(inWords({ label: 'final-0001', state: 'reviewed' }), 'final-0001, reviewed');
});

test('a draft is due after a pause, and each minute of drawing that goes on', () => {
  const work = new Work({ planes: () => null });
  Object.assign(work, { began: 0, drafted: 0, touched: 100000, dirty: true });
  assert.ok(work.draftDue(111000));
  work.drafted = 111000;
  assert.ok(!work.draftDue(150000)); // nothing new
  work.touched = 150000;
  assert.ok(!work.draftDue(155000));
  work.touched = 171500;
  assert.ok(work.draftDue(172000));
  work.dirty = false;
  assert.ok(!work.draftDue(999000));
});

test('colours rise from dark to bright', () => {
  const scale = hot(12).map(colour => colour.reduce((sum, part) => sum + part));
  assert.deepEqual(
    scale,
    [...scale].sort((a, b) => a - b),
  );
  assert.deepEqual(hot(12)[11], [255, 255, 255]);
});
