"""Prompts in a mask, and what may become of it after one: the rules that hold whatever finds what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy import ndimage

from maml_app.imaging.volume import Array
from maml_app.network.refine import DIVISOR

SURE_MM = 5.0  # around a click everything is as it says; less beside the border of the mask
SURE_DRAWN_MM = 1.0  # along a scribble: it shows by itself how far a person is sure, and runs close to borders
SURE_SHARE = 0.75  # of a place's distance to that border
REACH_MM = 40.0  # a prompt changes nothing further away; less beside the border of the mask
REACH_SHARE, REACH_LEAST_MM = 6.0, 10.0  # of its distance to that border, and what is added
KEPT_MM = REACH_MM / 2  # from earlier prompts: whoever looks at them asks for no larger distance

Box = tuple[slice, slice, slice]
# a prompt's places as voxel indices (N, 3), not rounded, and whether the structure is there; a click has one place
Path = tuple[Array, bool]


class Mark:
    """A prompt in a mask: how far away each voxel is, mm; how much around it is sure, and how far it reaches.

    Attributes:
        places: voxel indices (N, 3), not rounded, one a voxel at most.
        away: distance of each voxel to the nearest place, mm (X, Y, Z); beyond `far_mm` perhaps more than that.
        sure: up to which distance a voxel is as the prompt says, mm: by its nearest place's depth in the mask.
        reach: up to which distance anything changes, mm: by the deepest place that the mask contradicts.
        wrong: the voxels (W, 3) of the places that the mask contradicts; of all places where it contradicts none.
        beside: the voxels (X, Y, Z) next to those, which hang together with them.
    """

    def __init__(
        self, path: Path, mask: Array, depth: Array, spacing_mm: Sequence[float], far_mm: float = np.inf
    ) -> None:
        places, says = path
        voxels, first = np.unique(_voxels(places, mask.shape), axis=0, return_index=True)
        self.places, self.says = places[first], says
        at = tuple(voxels.T)
        nearest = _nearest(voxels, mask.shape, spacing_mm, far_mm)
        axes = np.ogrid[tuple(slice(size) for size in mask.shape)]
        steps = zip(axes, np.moveaxis(self.places[nearest], -1, 0), spacing_mm, strict=True)
        x, y, z = (((axis - place) * edge) ** 2 for axis, place, edge in steps)
        self.away = np.sqrt(x + y + z)
        border = depth[at]
        most_mm = SURE_MM if len(voxels) == 1 else SURE_DRAWN_MM
        self.sure = np.maximum(np.minimum(most_mm, SURE_SHARE * border), 0.51 * min(spacing_mm))[nearest]
        contradicted = mask[at] != says
        wrong = contradicted if contradicted.any() else np.ones_like(contradicted)
        self.wrong = voxels[wrong]
        self.reach = min(REACH_MM, REACH_LEAST_MM + REACH_SHARE * float(border[wrong].max()))
        self.beside = (self.away <= 1.01 * max(spacing_mm)) & wrong[nearest]


class Scene:
    """A mask before the newest prompt, and the prompts in it; a crop around the newest is enough.

    Attributes:
        mask: bool (X, Y, Z); the prompts before the newest are kept to.
        depth: distance of each voxel to the mask's border, mm, on both sides; infinite where there is none.
        marks: the prompts; `newest` is the last of them.
    """

    def __init__(self, mask: Array, paths: Sequence[Path], spacing_mm: Sequence[float]) -> None:
        self.mask, self.spacing_mm = mask, spacing_mm
        self.depth = _depth(mask, spacing_mm)
        self.newest = Mark(paths[-1], mask, self.depth, spacing_mm)
        self.marks = [*(Mark(path, mask, self.depth, spacing_mm, KEPT_MM) for path in paths[:-1]), self.newest]

    @cached_property
    def sure(self) -> tuple[Array, Array]:
        """Where prompts leave no doubt that something belongs, and that it does not: the nearer one counts."""
        best = {says: np.full(self.mask.shape, np.inf) for says in (True, False)}
        for mark in self.marks:
            best[mark.says] = np.minimum(best[mark.says], np.where(mark.away <= mark.sure, mark.away, np.inf))
        inside = np.isfinite(best[True]) & (best[True] < best[False])
        return inside, np.isfinite(best[False]) & ~inside

    @property
    def open(self) -> Array:
        """What the newest prompt may change: within its reach, and not yet as it says."""
        return np.asarray((self.newest.away <= self.newest.reach) & (self.mask != self.newest.says))

    def mended(self, belongs: Array) -> Array:
        """The mask after the newest prompt: what belongs together around it is added, or taken away.

        Args:
            belongs: bool (X, Y, Z), what is found to belong to the structure.
        """
        newest = self.newest
        inside, outside = self.sure
        if newest.says:
            change = (belongs | inside) & ~outside & self.open
        else:
            change = (~belongs | outside) & ~inside & self.open
        # what hangs together with what the mask contradicts of the prompt
        parts, _ = ndimage.label(change | newest.beside)
        return np.asarray(self.mask ^ (change & np.isin(parts, parts[tuple(newest.wrong.T)])))


class Crop:
    """The part of an image (X, Y, Z) in a box around places that is wholly or partly in it.

    What bounds its size is the image, and half a box beyond it on each side: places lie within the image.

    Attributes:
        box: of that part in the image; `inner`: of that part in the box.
        sides: of the box, (3,) voxels; divisible by DIVISOR if those of the box around one place are.
    """

    def __init__(self, places: Array, half: Array, shape: Sequence[int]) -> None:
        low, high = (np.round(end).astype(int) for end in (places.min(axis=0), places.max(axis=0)))
        self.sides = 2 * half + -(-(high - low) // DIVISOR) * DIVISOR
        first = low - half
        self.start, stop = np.maximum(first, 0), np.minimum(first + self.sides, shape)
        self.size, self.before = stop - self.start, self.start - first
        self.box, self.inner = _slices(self.start, stop), _slices(self.before, self.before + self.size)

    def scene(self, mask: Array, paths: Sequence[Path], spacing_mm: Sequence[float]) -> Scene:
        """The crop of a mask (X, Y, Z), with what lies in it of prompts."""
        moved = [(within(places - self.start, self.size), says) for places, says in paths]
        return Scene(mask[self.box], [(places, says) for places, says in moved if len(places)], spacing_mm)


def within(places: Array, shape: Sequence[int] | Array) -> Array:
    """Those of some places, voxel indices (N, 3), that lie in an image."""
    there = ((places >= -0.5) & (places <= np.array(shape) - 0.5)).all(axis=1)
    return np.asarray(places[there])


def _slices(start: Array, stop: Array) -> Box:
    x, y, z = (slice(int(first), int(last)) for first, last in zip(start, stop, strict=True))
    return x, y, z


def _depth(mask: Array, spacing_mm: Sequence[float]) -> Array:
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf)
    inner, outer = (ndimage.distance_transform_edt(part, sampling=spacing_mm) for part in (mask, ~mask))
    return np.where(mask, inner, outer)


def _voxels(places: Array, shape: Sequence[int]) -> Array:
    """The voxels (N, 3) of places."""
    return np.clip(np.round(places).astype(int), 0, np.array(shape) - 1)


def _nearest(voxels: Array, shape: tuple[int, ...], spacing_mm: Sequence[float], far_mm: float) -> Array:
    """The number of that one of voxels (N, 3) that is nearest to each voxel (X, Y, Z); beyond `far_mm` any of them."""
    if len(voxels) == 1:
        return np.zeros((1, 1, 1), dtype=int)  # to be broadcast: nothing to look for
    margin = np.minimum(np.ceil(far_mm / np.array(spacing_mm)), shape).astype(int)
    start = np.maximum(voxels.min(axis=0) - margin, 0)
    box = _slices(start, np.minimum(voxels.max(axis=0) + margin + 1, shape))
    number = np.zeros(shape, dtype=int)
    others = np.ones_like(number[box], dtype=bool)
    others[tuple((voxels - start).T)] = False
    number[tuple(voxels.T)] = np.arange(len(voxels))
    nearest = ndimage.distance_transform_edt(others, sampling=spacing_mm, return_distances=False, return_indices=True)
    number[box] = number[box][tuple(nearest)]
    return number
