"""Moving voxels between grids by their affines."""

from __future__ import annotations

from collections.abc import Iterator

import nibabel as nib
import numpy as np
import torch
from torch.nn import functional as F

from maml_app.imaging.volume import Array, Grid

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
    voxels: torch.Tensor, source: Grid, target: Grid, fill: float = 0.0, nearest: bool = False
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Interpolate voxels (C, X, Y, Z) on `source` at the voxel centres of `target`, one slab of X at a time.

    Yields (slice of X, values (C, slab, Y, Z)); linear, or nearest neighbour. Places outside the source's block of
    voxels get `fill`; within its outer half voxel the border value holds.
    """
    # target index -> source index
    step = np.linalg.inv(source.affine) @ target.affine
    size = torch.tensor(source.shape, dtype=torch.float64)
    matrix = torch.from_numpy(step[:3, :3])
    for slab in _slabs(target):
        axes = [torch.arange(slab.start, slab.stop), torch.arange(target.shape[1]), torch.arange(target.shape[2])]
        x, y, z = (axis.double() for axis in axes)
        index = (
            x[:, None, None, None] * matrix[:, 0]
            + y[None, :, None, None] * matrix[:, 1]
            + z[None, None, :, None] * matrix[:, 2]
            + torch.from_numpy(step[:3, 3])
        )
        inside = ((index >= -0.5 - 1e-6) & (index <= size - 0.5 + 1e-6)).all(dim=-1).to(voxels.device)
        place = ((2 * index + 1) / size - 1).flip(-1).float().to(voxels.device)
        values = F.grid_sample(
            voxels[None].float(),
            place[None],
            mode="nearest" if nearest else "bilinear",
            padding_mode="border",
            align_corners=False,
        )[0]
        yield slab, torch.where(inside, values, torch.tensor(fill, device=voxels.device))


def resample(voxels: torch.Tensor, source: Grid, target: Grid, fill: float = 0.0) -> torch.Tensor:
    """Linear interpolation of an image (X, Y, Z) onto another grid; float32. Averages first when it gets coarser."""
    if source.same_as(target):
        return voxels.float()
    voxels, source = _pooled(voxels.float(), source, target)
    result = torch.empty(target.shape)
    for slab, values in resample_slabs(voxels[None], source, target, fill):
        result[slab] = values[0]
    return result


def _pooled(voxels: torch.Tensor, source: Grid, target: Grid) -> tuple[torch.Tensor, Grid]:
    """Mean over whole blocks of source voxels where the target is at least twice as coarse, against aliasing."""
    step = np.linalg.inv(source.affine[:3, :3]) @ target.affine[:3, :3]
    ratio = np.abs(step).max(axis=1)
    factor = [max(1, min(int(r + 0.05), n)) for r, n in zip(ratio, source.shape, strict=True)]
    if max(factor) == 1:
        return voxels, source
    pooled = F.avg_pool3d(voxels[None, None], factor, factor, ceil_mode=True, count_include_pad=False)[0, 0]
    affine = source.affine.copy()
    affine[:3, :3] = source.affine[:3, :3] * factor
    affine[:3, 3] = source.affine[:3, :3] @ ((np.array(factor) - 1) / 2) + source.affine[:3, 3]
    x, y, z = pooled.shape
    return pooled, Grid((x, y, z), affine)


def resample_label(label: Array, source: Grid, target: Grid) -> Array:
    """Bring a label map (X, Y, Z) onto another grid: each class linearly, the largest wins; uint8."""
    label = np.asarray(label, dtype=np.uint8)
    if source.same_as(target):
        return label
    result = np.zeros(target.shape, dtype=np.uint8)
    best = np.full(target.shape, -1, dtype=np.float32)
    for value in sorted({0, *np.unique(label).tolist()}):
        mask, grid = _pooled(torch.from_numpy((label == value).astype(np.float32)), source, target)
        for slab, values in resample_slabs(mask[None], grid, target, fill=float(value == 0)):
            share = values[0].numpy()
            wins = share > best[slab]
            result[slab][wins] = value
            best[slab][wins] = share[wins]
    return result


def restore_label(probabilities: torch.Tensor, source: Grid, target: Grid) -> Array:
    """Bring class probabilities (K, X, Y, Z) onto the asked grid and take the largest class; uint8 (X, Y, Z).

    Outside the source's extent the answer is background. Only the part that can hold foreground is computed.
    """
    result = np.zeros(target.shape, dtype=np.uint8)
    found = torch.nonzero(probabilities[1:].sum(dim=0) > 1 / probabilities.shape[0])
    if len(found) == 0:
        return result
    low, high = (edge.cpu().numpy() for edge in (found.min(dim=0).values, found.max(dim=0).values))
    # one voxel of margin for the interpolation, in the asked grid's indices
    corners = source.crop(low - 1, high + 2).corners_mm()
    index = (corners - target.affine[:3, 3]) @ np.linalg.inv(target.affine[:3, :3]).T
    start = np.clip(np.floor(index.min(axis=0)), 0, target.shape).astype(int)
    stop = np.clip(np.ceil(index.max(axis=0)) + 1, 0, target.shape).astype(int)
    if (stop <= start).any():
        return result
    part = target.crop(start, stop)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    for slab, values in resample_slabs(probabilities, source, part):
        result[box][slab] = values.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return result
