"""A volume: voxels and the affine that places them in the patient. A grid is a volume without voxels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from maml_app.errors import GridError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: shape (X, Y, Z) and a 4 x 4 affine, voxel index -> RAS millimetres.

    Raises:
        GridError: not three axes, an affine that is not finite, or one that cannot be inverted.
    """

    shape: tuple[int, int, int]
    affine: Array

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GridError(f"expected a shape of three positive sizes, got {tuple(self.shape)}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GridError(f"expected a finite 4 x 4 affine, got {affine.tolist()}")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        # the volume of the unit cell against that of a box of the same edges: 0 when axes fall together
        if spacing.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
            raise GridError(
                f"expected an affine that can be inverted, got axes {affine[:3, :3].round(4).tolist()} "
                "(two axes coincide or one has no length)"
            )
        object.__setattr__(self, "shape", (int(self.shape[0]), int(self.shape[1]), int(self.shape[2])))
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def corners_mm(self) -> Array:
        """The eight outer corners of the voxel block, (8, 3), RAS mm."""
        ends = np.array(np.meshgrid(*[(-0.5, size - 0.5) for size in self.shape], indexing="ij")).reshape(3, 8).T
        return np.asarray(ends @ self.affine[:3, :3].T + self.affine[:3, 3])

    def same_as(self, other: Grid, tolerance_vox: float = 0.02) -> bool:
        """Whether both grids have one shape and their corners agree within a fraction of a voxel."""
        if self.shape != other.shape:
            return False
        apart_mm = np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max()
        return bool(apart_mm <= tolerance_vox * min(*self.spacing_mm, *other.spacing_mm))

    def same_voxels_as(self, other: Grid, tolerance_vox: float = 0.02) -> bool:
        """Whether both hold the same voxels, perhaps in another order or direction of the axes."""
        step = np.linalg.inv(self.affine) @ other.affine
        turn = np.rint(step[:3, :3])
        if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
            return False
        if tuple(np.abs(turn) @ other.shape) != self.shape:
            return False
        ends = np.array(other.shape) - 1
        corners = np.array(np.meshgrid(*[(0, end) for end in ends], indexing="ij")).reshape(3, 8).T
        index = corners @ step[:3, :3].T + step[:3, 3]
        start = np.where(turn.sum(axis=1) > 0, 0, np.array(self.shape) - 1)
        return bool(np.abs(index - (corners @ turn.T + start)).max() <= tolerance_vox)

    def apart_mm(self, other: Grid) -> float:
        """How far the corners of two blocks are apart, at most, mm."""
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def shared(self, other: Grid, points: int = 16) -> float:
        """The part of the smaller block that lies in the larger one, 0 to 1, from a lattice of points."""
        small, large = sorted((self, other), key=lambda grid: grid.voxel_ml * float(np.prod(grid.shape)))
        places = (np.arange(points) + 0.5) / points
        unit = np.stack(np.meshgrid(places, places, places, indexing="ij"), axis=-1).reshape(-1, 3)
        ras = (unit * small.shape - 0.5) @ small.affine[:3, :3].T + small.affine[:3, 3]
        index = (ras - large.affine[:3, 3]) @ np.linalg.inv(large.affine[:3, :3]).T
        inside = ((index >= -0.5) & (index <= np.array(large.shape) - 0.5)).all(axis=1)
        return float(inside.mean())

    def overlaps(self, other: Grid) -> bool:
        """Whether the two blocks of voxels share space, judged in the axes of either."""
        for first, second in ((self, other), (other, self)):
            index = (second.corners_mm() - first.affine[:3, 3]) @ np.linalg.inv(first.affine[:3, :3]).T
            if (index.max(axis=0) < -0.5).any() or (index.min(axis=0) > np.array(first.shape) - 0.5).any():
                return False
        return True

    def crop(self, start: Array, stop: Array) -> Grid:
        """The part from index `start` up to, not including, `stop`."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ start + self.affine[:3, 3]
        size = np.asarray(stop) - np.asarray(start)
        return Grid((int(size[0]), int(size[1]), int(size[2])), affine)

    @property
    def place(self) -> str:
        """The grid in words, with where its first voxel lies."""
        return f"{self}, first voxel at ({', '.join(f'{axis:.1f}' for axis in self.affine[:3, 3])}) mm RAS"

    def __str__(self) -> str:
        size = "x".join(str(side) for side in self.shape)
        spacing = "x".join(f"{edge:.2f}" for edge in self.spacing_mm)
        return f"{size} of {spacing} mm {''.join(nib.orientations.aff2axcodes(self.affine))}"


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels (X, Y, Z) and their affine, voxel index -> RAS mm."""

    voxels: Array
    affine: Array

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise GridError(f"expected three axes, got shape {self.voxels.shape}")
        object.__setattr__(self, "affine", self.grid.affine)

    @property
    def grid(self) -> Grid:
        x, y, z = self.voxels.shape
        return Grid((x, y, z), self.affine)

    @property
    def content(self) -> str:
        """A hash of the voxels and of where they lie, to a thousandth of a millimetre."""
        digest = hashlib.sha256(str((self.voxels.shape, self.affine.round(3).tolist())).encode())
        digest.update(np.ascontiguousarray(self.voxels).tobytes())
        return digest.hexdigest()[:32]
