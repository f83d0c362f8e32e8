"""Moving voxels between grids by their affines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from torch.nn import functional as F

from maml_app.imaging.volume import Array, Grid

Shares = Iterable[tuple[int, torch.Tensor]]  # a value of a label map, and its share (X, Y, Z) of each voxel, 0 to 1

PARALLEL = 1e-9  # voxels: an axis that moves an index by less than this is parallel to the other two
CLEAR = 1e-3  # a lead that float32 coordinates cannot turn round
UNDECIDED = -1
SLAB_VOXELS = 4_000_000  # so many target voxels at a time: bounds the memory for coordinates to about 150 MB


def network_grid(frame: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid the network works on: the frame's extent, axes ordered and turned nearest to R, A, S, other spacing.

    The axes keep the frame's obliquity; only their order, their signs and the spacing change.
    """
    orientation = nib.orientations.io_orientation(frame.affine)
    affine = frame.affine @ nib.orientations.inv_ornt_aff(orientation, frame.shape)
    shape = np.zeros(3, dtype=int)
    shape[orientation[:, 0].astype(int)] = frame.shape
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / edges * np.array(spacing_mm)
    corner = affine[:3, 3] - affine[:3, :3] @ np.full(3, 0.5)
    result = np.eye(4)
    result[:3, :3] = axes
    result[:3, 3] = corner + axes @ np.full(3, 0.5)
    x, y, z = (max(1, round(n * edge / new)) for n, edge, new in zip(shape, edges, spacing_mm, strict=True))
    return Grid((x, y, z), result)


def _slabs(grid: Grid) -> Iterator[slice]:
    thick = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], thick):
        yield slice(start, min(start + thick, grid.shape[0]))


def resample_slabs(
    voxels: torch.Tensor, source: Grid, target: Grid, fill: float = 0.0
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Interpolate voxels (C, X, Y, Z) on `source` linearly at the voxel centres of `target`, one slab of X at a time.

    Yields (slice of X, values (C, slab, Y, Z)). Places outside the source's block of voxels get `fill`; within its
    outer half voxel the border value holds.
    """
    for slab, index, inside in _index_slabs(source, target):
        places = torch.stack([along.expand(inside.shape) for along in index], dim=-1)
        values = _sampled(voxels, _for_sampling(places, source)).reshape(-1, *inside.shape)
        yield slab, torch.where(inside.to(voxels.device), values, torch.tensor(fill, device=voxels.device))


def _index_slabs(source: Grid, target: Grid) -> Iterator[tuple[slice, list[torch.Tensor], torch.Tensor]]:
    """Where the target's voxel centres lie in the source, a slab of X at a time.

    Yields (slice of X, index along each axis of the source, whether that is within its block of voxels), to be
    broadcast to (slab, Y, Z): where axes are parallel, an index depends on one axis of the target alone.
    """
    step = np.linalg.inv(source.affine) @ target.affine
    turned = [[abs(step[axis, other]) * target.shape[other] > PARALLEL for other in range(3)] for axis in range(3)]
    for slab in _slabs(target):
        runs = [torch.arange(slab.start, slab.stop), torch.arange(target.shape[1]), torch.arange(target.shape[2])]
        x, y, z = (run.double() for run in runs)
        index = []
        for axis in range(3):
            along = torch.full((1, 1, 1), float(step[axis, 3]), dtype=torch.float64)
            for other, run in enumerate((x[:, None, None], y[:, None], z)):
                if turned[axis][other]:
                    along = along + run * float(step[axis, other])
            index.append(along)
        within = [
            (along >= -0.5 - 1e-6) & (along <= size - 0.5 + 1e-6)
            for along, size in zip(index, source.shape, strict=True)
        ]
        inside = within[0] & within[1] & within[2]
        yield slab, index, inside.expand(slab.stop - slab.start, *target.shape[1:])


def _for_sampling(places: torch.Tensor, source: Grid) -> torch.Tensor:
    """Indices of the source (..., 3) as `grid_sample` takes places: (N, 3) from -1 to 1, last axis first, float32."""
    size = torch.tensor(source.shape, dtype=torch.float64)
    return ((2 * places + 1) / size - 1).flip(-1).float().reshape(-1, 3)


def _sampled(voxels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Voxels (C, X, Y, Z) at places (N, 3): (C, N), float32."""
    at = places.to(voxels.device)[None, :, None, None]
    values = F.grid_sample(voxels[None].float(), at, padding_mode="border", align_corners=False)
    return values[0, :, :, 0, 0]


def resample(voxels: torch.Tensor, source: Grid, target: Grid, fill: float = 0.0) -> torch.Tensor:
    """Linear interpolation of an image (X, Y, Z) onto another grid; float32. Averages first when it gets coarser."""
    if source.same_as(target):
        return voxels.float()
    voxels, source = _pooled(voxels.float(), source, target), _pooled_grid(source, target)
    result = torch.empty(target.shape)
    for slab, values in resample_slabs(voxels[None], source, target, fill):
        result[slab] = values[0]
    return result


def _factors(source: Grid, target: Grid) -> list[int]:
    step = np.linalg.inv(source.affine[:3, :3]) @ target.affine[:3, :3]
    return [max(1, min(int(r + 0.05), n)) for r, n in zip(np.abs(step).max(axis=1), source.shape, strict=True)]


def _pooled(voxels: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
    """Mean over whole blocks of source voxels where the target is at least twice as coarse, against aliasing."""
    factors = _factors(source, target)
    if max(factors) == 1:
        return voxels
    return F.avg_pool3d(voxels[None, None], factors, factors, ceil_mode=True, count_include_pad=False)[0, 0]


def _pooled_grid(source: Grid, target: Grid) -> Grid:
    factors = _factors(source, target)
    affine = source.affine.copy()
    affine[:3, :3] = source.affine[:3, :3] * factors
    affine[:3, 3] = source.affine[:3, :3] @ ((np.array(factors) - 1) / 2) + source.affine[:3, 3]
    x, y, z = (-(-size // factor) for size, factor in zip(source.shape, factors, strict=True))
    return Grid((x, y, z), affine)


def resample_label(label: Array, source: Grid, target: Grid) -> Array:
    """Bring a label map (X, Y, Z) onto another grid: each class linearly, the largest wins; uint8."""
    label = np.asarray(label, dtype=np.uint8)
    if source.same_as(target):
        return label
    values = np.flatnonzero(np.bincount(label.ravel(), minlength=1))
    box = reached(torch.from_numpy(label) > 0, source, target)

    def shares() -> Shares:
        for value in sorted({0, *values.tolist()}):
            yield value, _pooled(torch.from_numpy((label == value).astype(np.float32)), source, target)

    coarser = _pooled_grid(source, target)
    leader = torch.from_numpy(label).short() if coarser.same_as(source) else _leading(shares())
    result = np.zeros(target.shape, dtype=np.uint8)
    if box:
        result[box.slices] = _largest(leader, shares, coarser, box.grid)
    return result


def restore_label(probabilities: torch.Tensor, source: Grid, target: Grid) -> Array:
    """Bring class probabilities (K, X, Y, Z) onto the asked grid and take the largest class; uint8 (X, Y, Z).

    Outside the source's extent the answer is background.
    """
    chances = probabilities.cpu()
    result = np.zeros(target.shape, dtype=np.uint8)
    box = reached(chances[1:].sum(dim=0) > 1 / len(chances), source, target)
    if box:
        result[box.slices] = _largest(_leading(enumerate(chances)), lambda: enumerate(chances), source, box.grid)
    return result


class Part(NamedTuple):
    """A box of a grid: where it lies in it, and its own grid."""

    slices: tuple[slice, ...]
    grid: Grid


def reached(there: torch.Tensor, source: Grid, target: Grid) -> Part | None:
    """The part of the target where what is true in (X, Y, Z) of the source counts in interpolation; None if nowhere."""
    if not there.any():
        return None
    margin = np.array(_factors(source, target))  # for the interpolation, between means of so many voxels
    low, end = around(there)
    corners = source.crop(low - margin, end + margin).corners_mm()
    index = (corners - target.affine[:3, 3]) @ np.linalg.inv(target.affine[:3, :3]).T
    start = np.clip(np.floor(index.min(axis=0)), 0, target.shape).astype(int)
    stop = np.clip(np.ceil(index.max(axis=0)) + 1, 0, target.shape).astype(int)
    if (stop <= start).any():
        return None
    return Part(tuple(slice(a, b) for a, b in zip(start, stop, strict=True)), target.crop(start, stop))


def around(there: torch.Tensor, margin: Array | int = 0) -> tuple[Array, Array]:
    """First index and end of the box around what is true in (X, Y, Z), and a margin, voxels; all where nothing is."""
    size = np.array(there.shape)
    if not there.any():
        return np.zeros(3, dtype=int), size
    along = [torch.nonzero(there.any(dim=other).any(dim=last)) for other, last in ((2, 1), (2, 0), (1, 0))]
    first, last = (np.array([int(line[place]) for line in along]) for place in (0, -1))
    return np.maximum(first - margin, 0), np.minimum(last + margin + 1, size)


def _largest(leader: torch.Tensor, shares: Callable[[], Shares], source: Grid, target: Grid) -> Array:
    """The value with the largest share, interpolated linearly, at each voxel of the target; uint8, 0 outside.

    Where one value leads at all eight corners around a place, it leads there: only the other places are worked out.

    Args:
        leader: (X, Y, Z) int16 of the source, UNDECIDED where none leads clearly.
    """
    cells = leader
    for axis in range(3):  # of a voxel and all next ones up each axis
        following = torch.cat([cells.narrow(axis, 1, cells.shape[axis] - 1), cells.narrow(axis, -1, 1)], dim=axis)
        cells = torch.where(cells == following, cells, UNDECIDED)
    result = np.zeros(target.shape, dtype=np.uint8)
    waiting: list[tuple[Array, torch.Tensor]] = []  # flat indices of the target, and places in the source
    for slab, index, inside in _index_slabs(source, target):
        cell = torch.zeros((1, 1, 1), dtype=torch.int64)
        for along, size in zip(index, source.shape, strict=True):
            cell = cell * size + along.clamp(0, size - 1).floor().long()
        found = torch.where(inside, cells.take(cell), 0)
        result[slab] = found.numpy()
        at = torch.nonzero(found == UNDECIDED, as_tuple=True)
        places = torch.stack([along.expand(found.shape)[at] for along in index], dim=-1)
        flat = np.ravel_multi_index((at[0].numpy() + slab.start, at[1].numpy(), at[2].numpy()), target.shape)
        waiting.append((flat, _for_sampling(places, source)))
        if slab.stop == target.shape[0] or sum(len(flat) for flat, _ in waiting) > SLAB_VOXELS:
            result.reshape(-1)[np.concatenate([flat for flat, _ in waiting])] = _winners(
                shares(), torch.cat([places for _, places in waiting])
            )
            waiting.clear()
    return result


def _winners(shares: Shares, places: torch.Tensor) -> Array:
    """The value with the largest share at each place (N, 3) as of `_for_sampling`; uint8 (N,)."""
    best, winner = torch.full((len(places),), -1.0), torch.zeros(len(places), dtype=torch.uint8)
    for value, share in shares:
        values = _sampled(share[None], places)[0]
        winner[values > best] = value
        best = torch.maximum(best, values)
    found: Array = winner.numpy()
    return found


def _leading(shares: Shares) -> torch.Tensor:
    """(X, Y, Z) int16: the value that leads clearly, else UNDECIDED."""
    leader = best = second = torch.zeros(())
    for value, share in shares:
        share = share.float()
        leader = torch.where(share > best, value, leader)
        second = torch.maximum(second, torch.minimum(share, best))
        best = torch.maximum(share, best)
    return torch.where(best - second > CLEAR, leader, UNDECIDED).short()
