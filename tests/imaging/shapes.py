"""An asymmetric object and oblique grids, analytic, for geometry tests."""

from __future__ import annotations

import numpy as np

from maml_app.imaging.volume import Array, Grid


def oblique(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int, centre: bool = True
) -> Grid:
    """A grid turned about all axes by up to 25 degrees, one axis flipped, two swapped; centred near the origin."""
    rng = np.random.default_rng(seed)
    turn = np.eye(3)
    for one, two in ((0, 1), (1, 2), (0, 2)):
        angle = rng.uniform(-0.4, 0.4)
        step = np.eye(3)
        step[one, one] = step[two, two] = np.cos(angle)
        step[one, two], step[two, one] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    order = np.eye(3)[:, rng.permutation(3)] @ np.diag([-1.0, 1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = turn @ order @ np.diag(spacing_mm)
    if centre:
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def places_mm(grid: Grid) -> Array:
    index = np.stack(np.meshgrid(*[np.arange(side) for side in grid.shape], indexing="ij"), axis=-1)
    return np.asarray(index @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def key_shape(places: Array) -> Array:
    """A body without any symmetry: an ellipsoid with a longer arm towards R, a shorter towards A, a knob towards S."""
    x, y, z = places[..., 0], places[..., 1], places[..., 2]
    body = (x / 14) ** 2 + (y / 10) ** 2 + (z / 9) ** 2 < 1
    right = (x > 0) & (x < 32) & (np.abs(y) < 5) & (np.abs(z) < 5)
    front = (y > 0) & (y < 22) & (np.abs(x) < 4) & (np.abs(z) < 5)
    top = (x - 8) ** 2 + (y + 3) ** 2 + (z - 12) ** 2 < 6**2
    return np.asarray(body | right | front | top)


def overlap(one: Array, two: Array) -> float:
    """Dice of two masks."""
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))
