/**
 * A labelmap as slices by name. Slices are matched by their WADO-RS names (INSTANCE/frames/NUMBER), never by position:
 * a mask cannot end up on another series, nor upside down.
 */

/** The name in an image id of OHIF's. */
export function sliceName(imageId) {
  return (String(imageId).match(/instances\/([^/]+\/frames\/\d+)/) || [])[1];
}

/**
 * Write voxels of all slices, in the order of `names`, into the planes of these names.
 * Nothing is written where the slices are other ones, or of another size.
 */
export function fill(planes, voxels, names) {
  const size = voxels.length / names.length;
  if (planes.size !== names.length || names.some(name => !planes.has(name) || planes.get(name).length !== size)) {
    throw new Error('The series in the viewer is not the one that the server has; open the study again.');
  }
  names.forEach((name, index) => planes.get(name).set(voxels.subarray(index * size, (index + 1) * size)));
}

/** How many voxels each value has, background left out. */
export function counts(planes) {
  const found = new Map();
  for (const plane of planes.values()) {
    for (const value of plane) {
      if (value) {
        found.set(value, (found.get(value) || 0) + 1);
      }
    }
  }
  return found;
}

/** Copies of planes, to compare with later. */
export function copyOf(planes) {
  return new Map([...planes].map(([name, plane]) => [name, new Uint8Array(plane)]));
}

/** Put copied planes back. */
export function restore(planes, copies) {
  for (const [name, copy] of copies) {
    planes.get(name).set(copy);
  }
}

/** What steps of drawing changed, so that they can be undone and done again. */
export class Steps {
  constructor(limit = 50) {
    this.limit = limit;
    this.reset(new Map());
  }

  /** Start anew from these planes. */
  reset(planes) {
    this.shadow = copyOf(planes);
    this.done = [];
    this.undone = [];
    this.stroke = null; // to which the last step belongs
  }

  /** Take what changed since the last step as a new one, or as more of it in the same stroke; returns its slices. */
  take(planes, stroke = null) {
    const before = new Map();
    for (const [name, plane] of planes) {
      const old = this.shadow.get(name);
      if (old && old.some((value, index) => value !== plane[index])) {
        before.set(name, old);
        this.shadow.set(name, new Uint8Array(plane));
      }
    }
    if (before.size && stroke !== null && stroke === this.stroke) {
      const last = this.done.pop();
      this.done.push(new Map([...before, ...last])); // a slice is as it was before the stroke
    } else if (before.size) {
      this.done = [...this.done.slice(1 - this.limit), before];
      this.undone = [];
      this.stroke = stroke;
    }
    return [...before.keys()];
  }

  undo(planes) {
    return this.move(planes, this.done, this.undone);
  }

  redo(planes) {
    return this.move(planes, this.undone, this.done);
  }

  move(planes, from, to) {
    const step = from.pop();
    if (!step) {
      return false;
    }
    this.stroke = null;
    to.push(new Map([...step.keys()].map(name => [name, this.shadow.get(name)])));
    for (const [name, plane] of step) {
      planes.get(name).set(plane);
      this.shadow.set(name, new Uint8Array(plane));
    }
    return true;
  }
}

/** Copy one value's voxels of a slice to another slice, where nothing else is drawn. Returns how many were set. */
export function copySlice(planes, from, to, value) {
  const source = planes.get(from);
  const target = planes.get(to);
  let count = 0;
  source.forEach((drawn, index) => {
    if (drawn === value && !target[index]) {
      target[index] = value;
      count += 1;
    }
  });
  return count;
}

/** So long ago, in words. */
export function ago(moment, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(moment)) / 1000);
  for (const [size, word] of [
    [86400, 'day'],
    [3600, 'hour'],
    [60, 'minute'],
  ]) {
    if (seconds >= size) {
      const count = Math.floor(seconds / size);
      return `${count} ${word}${count > 1 ? 's' : ''} ago`;
    }
  }
  return 'just now';
}
