/** Shapes in a labelmap: its connected parts, and what lies between two drawn slices. Pure functions of planes. */

const MOST = 30; // parts that are told of

/**
 * Connected parts (by faces, of one value) of planes in the order `names`, `columns` voxels a row; largest first.
 * Returns [{value, voxels, slice}], `slice` the name of the one where the part is largest.
 */
export function lesions(planes, names, columns) {
  const seen = names.map(name => new Uint8Array(planes.get(name).length));
  const found = [];
  names.forEach((name, first) => {
    planes.get(name).forEach((value, start) => {
      if (!value || seen[first][start]) {
        return;
      }
      const counts = new Map();
      const stack = [[first, start]];
      seen[first][start] = 1;
      const visit = (place, index) => {
        const plane = planes.get(names[place]);
        if (plane && !seen[place][index] && plane[index] === value) {
          seen[place][index] = 1;
          stack.push([place, index]);
        }
      };
      while (stack.length) {
        const [place, index] = stack.pop();
        const column = index % columns;
        counts.set(place, (counts.get(place) || 0) + 1);
        if (column > 0) {
          visit(place, index - 1);
        }
        if (column < columns - 1) {
          visit(place, index + 1);
        }
        visit(place, index - columns);
        visit(place, index + columns);
        visit(place - 1, index);
        visit(place + 1, index);
      }
      const [largest] = [...counts].reduce((most, next) => (next[1] > most[1] ? next : most));
      const voxels = [...counts.values()].reduce((sum, count) => sum + count, 0);
      found.push({ value, voxels, slice: names[largest] });
    });
  });
  return found.sort((a, b) => b.voxels - a.voxels).slice(0, MOST);
}

/**
 * Fill empty slices between drawn ones of a value by shape-based interpolation (Raya and Udupa 1990,
 * 10.1109/42.52980): the signed distances of both, mixed by place, are below zero inside. Other values stay.
 * Returns how many slices were filled.
 */
export function interpolate(planes, names, columns, value) {
  const drawn = names.map((name, place) => (planes.get(name).includes(value) ? place : -1)).filter(place => place >= 0);
  let filled = 0;
  drawn.slice(1).forEach((to, index) => {
    const from = drawn[index];
    if (to - from < 2) {
      return;
    }
    const [before, after] = [from, to].map(place => signedDistance(planes.get(names[place]), columns, value));
    for (let place = from + 1; place < to; place += 1) {
      const plane = planes.get(names[place]);
      const share = (place - from) / (to - from);
      let empty = true;
      for (let voxel = 0; voxel < plane.length; voxel += 1) {
        if (!plane[voxel] && (1 - share) * before[voxel] + share * after[voxel] < 0) {
          plane[voxel] = value;
          empty = false;
        }
      }
      filled += empty ? 0 : 1;
    }
  });
  return filled;
}

/**
 * A line of at most so many of its points, ends included: again and again the one goes that changes the line least
 * (Visvalingam and Whyatt 1993, 10.1179/000870493786962263), by the area of the triangle with its neighbours.
 */
export function thinned(points, most) {
  const kept = [...points];
  while (kept.length > most) {
    const areas = kept.slice(1, -1).map((point, index) => area(kept[index], point, kept[index + 2]));
    kept.splice(1 + areas.indexOf(Math.min(...areas)), 1);
  }
  return kept;
}

/** Of a parallelogram in space, twice a triangle's: the length of the cross product. */
function area(a, b, c) {
  const [[ux, uy, uz], [vx, vy, vz]] = [b, c].map(point => point.map((axis, index) => axis - a[index]));
  return Math.hypot(uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx);
}

/** Distance to the border in voxels, below zero inside. */
export function signedDistance(plane, columns, value) {
  const inside = distance(plane, columns, drawn => drawn !== value);
  const outside = distance(plane, columns, drawn => drawn === value);
  return outside.map((away, index) => Math.sqrt(away) - Math.sqrt(inside[index]));
}

/** Squared Euclidean distance to the nearest voxel that is meant (Felzenszwalb and Huttenlocher 2012). */
function distance(plane, columns, meant) {
  const rows = plane.length / columns;
  const far = columns * columns + rows * rows;
  const field = Float64Array.from(plane, drawn => (meant(drawn) ? 0 : far));
  for (let column = 0; column < columns; column += 1) {
    sweep(field, column, columns, rows);
  }
  for (let row = 0; row < rows; row += 1) {
    sweep(field, row * columns, 1, columns);
  }
  return field;
}

/** The lower envelope of parabolas along one line of a field. */
function sweep(field, start, step, count) {
  const line = Float64Array.from({ length: count }, (_, index) => field[start + index * step]);
  const places = [0];
  const bounds = [-Infinity, Infinity];
  for (let index = 1; index < count; index += 1) {
    let meet = -Infinity;
    for (;;) {
      const last = places[places.length - 1];
      meet = (line[index] + index * index - line[last] - last * last) / (2 * (index - last));
      if (meet > bounds[places.length - 1] || places.length === 1) {
        break;
      }
      places.pop();
      bounds.pop();
    }
    if (meet <= bounds[0]) {
      meet = bounds[0];
    }
    bounds[places.length] = meet;
    places.push(index);
    bounds[places.length] = Infinity;
  }
  let nearest = 0;
  for (let index = 0; index < count; index += 1) {
    while (bounds[nearest + 1] < index) {
      nearest += 1;
    }
    field[start + index * step] = (index - places[nearest]) ** 2 + line[places[nearest]];
  }
}
