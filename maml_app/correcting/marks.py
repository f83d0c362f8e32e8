"""Clicks in a mask, and what may become of it after one: the rules that hold whatever finds what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy import ndimage

from maml_app.imaging.volume import Array

SURE_MM = 5.0  # around a click everything is as it says; less beside the border of the mask
SURE_SHARE = 0.75  # of the click's distance to that border
REACH_MM = 40.0  # a click changes nothing further away; less beside the border of the mask
REACH_SHARE, REACH_LEAST_MM = 6.0, 10.0  # of the click's distance to that border, and what is added

Box = tuple[slice, slice, slice]
Place = tuple[Array, bool]  # a click as voxel index (3,), not rounded, and whether the structure is there


class Mark:
    """A click in a mask: how far away each voxel is, mm; how much around it is sure, and how far it reaches."""

    def __init__(self, place: Array, says: bool, depth: Array, spacing_mm: Sequence[float]) -> None:
        self.place, self.says = place, says
        axes = (np.arange(size) for size in depth.shape)
        steps = [(axis - at) * edge for axis, at, edge in zip(axes, place, spacing_mm, strict=True)]
        x, y, z = (step**2 for step in steps)
        self.away = np.sqrt(x[:, None, None] + y[:, None] + z)
        border = float(depth[_index(place, depth.shape)])
        self.sure = max(min(SURE_MM, SURE_SHARE * border), 0.51 * min(spacing_mm))
        self.reach = min(REACH_MM, REACH_LEAST_MM + REACH_SHARE * border)


class Scene:
    """A mask before the newest click, and the clicks in it; a crop around the newest is enough.

    Attributes:
        mask: bool (X, Y, Z); the clicks before the newest are kept to.
        depth: distance of each voxel to the mask's border, mm, on both sides; infinite where there is none.
        marks: the clicks; `newest` is the last of them.
    """

    def __init__(self, mask: Array, clicks: Sequence[Place], spacing_mm: Sequence[float]) -> None:
        self.mask, self.spacing_mm = mask, spacing_mm
        self.depth = _depth(mask, spacing_mm)
        self.marks = [Mark(place, says, self.depth, spacing_mm) for place, says in clicks]
        self.newest = self.marks[-1]

    @cached_property
    def sure(self) -> tuple[Array, Array]:
        """Where clicks leave no doubt that something belongs, and that it does not: the nearer one counts."""
        best = {says: np.full(self.mask.shape, np.inf) for says in (True, False)}
        for mark in self.marks:
            best[mark.says] = np.minimum(best[mark.says], np.where(mark.away <= mark.sure, mark.away, np.inf))
        inside = np.isfinite(best[True]) & (best[True] < best[False])
        return inside, np.isfinite(best[False]) & ~inside

    @property
    def open(self) -> Array:
        """What the newest click may change: within its reach, and not yet as it says."""
        return np.asarray((self.newest.away <= self.newest.reach) & (self.mask != self.newest.says))

    def mended(self, belongs: Array) -> Array:
        """The mask after the newest click: what belongs together around it is added, or taken away.

        Args:
            belongs: bool (X, Y, Z), what is found to belong to the structure.
        """
        newest = self.newest
        inside, outside = self.sure
        if newest.says:
            change = (belongs | inside) & ~outside & self.open
        else:
            change = (~belongs | outside) & ~inside & self.open
        # what hangs together with the click
        parts, _ = ndimage.label(change | (newest.away <= 1.01 * max(self.spacing_mm)))
        return np.asarray(self.mask ^ (change & (parts == parts[_index(newest.place, self.mask.shape)])))


class Crop:
    """The part of an image (X, Y, Z) in a box around a voxel that is wholly or partly in it.

    Attributes:
        box: of that part in the image; `inner`: of that part in the box.
        sides: of the box, (3,) voxels.
    """

    def __init__(self, centre: Array, half: Array, shape: Sequence[int]) -> None:
        first = np.round(centre).astype(int) - half
        self.start, stop = np.maximum(first, 0), np.minimum(first + 2 * half, shape)
        self.size, self.before, self.sides = stop - self.start, self.start - first, 2 * half
        self.box, self.inner = _slices(self.start, stop), _slices(self.before, self.before + self.size)

    def scene(self, mask: Array, clicks: Sequence[Place], spacing_mm: Sequence[float]) -> Scene:
        """The crop of a mask (X, Y, Z), with those clicks that lie in it."""
        moved = [(place - self.start, says) for place, says in clicks]
        within = [(at, says) for at, says in moved if ((at >= -0.5) & (at <= self.size - 0.5)).all()]
        return Scene(mask[self.box], within, spacing_mm)


def _slices(start: Array, stop: Array) -> Box:
    x, y, z = (slice(int(first), int(last)) for first, last in zip(start, stop, strict=True))
    return x, y, z


def _depth(mask: Array, spacing_mm: Sequence[float]) -> Array:
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf)
    within, beyond = (ndimage.distance_transform_edt(part, sampling=spacing_mm) for part in (mask, ~mask))
    return np.where(mask, within, beyond)


def _index(place: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The voxel of a place."""
    return tuple(np.clip(np.round(place).astype(int), 0, np.array(shape) - 1).tolist())
