"""Scores against masks whose answers are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from maml_app.evaluation.metrics import Measures, measure
from maml_app.imaging.volume import Array, Volume

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])  # mm


def block(*corner: int, side: int = 6) -> Array:
    mask = np.zeros((32, 24, 20), dtype=np.uint8)
    x, y, z = corner
    mask[x : x + side, y : y + side, z : z + side] = 1
    return mask


def scores(prediction: Array, truth: Array, tolerance_mm: float = 1.0) -> Measures:
    return measure(prediction, Volume(truth, AFFINE), {"lesion": (1,)}, tolerance_mm)["lesion"]


def test_a_perfect_answer() -> None:
    truth = block(4, 4, 4)
    volume_ml: Any = pytest.approx(216 * 2 / 1000)
    assert scores(truth, truth) == Measures(1.0, 1.0, 0.0, 1, 1, 0, volume_ml, volume_ml, 0.0)


def test_a_shift_counts_in_millimetres_along_each_axis() -> None:
    truth = block(4, 4, 4)
    along_x, along_z = scores(block(7, 4, 4), truth), scores(block(4, 4, 7), truth)
    assert along_x.hd95_mm == pytest.approx(3)
    assert along_z.hd95_mm == pytest.approx(6)  # three voxels of 2 mm
    assert scores(block(5, 4, 4), truth, 1.0).nsd == 1.0  # within the tolerance everywhere
    near, far = scores(block(6, 4, 4), truth, 1.0).nsd, scores(block(9, 4, 4), truth, 1.0).nsd
    assert near is not None
    assert far is not None
    assert 0 < far < near < 1


def test_lesions_are_counted_one_by_one() -> None:
    truth = block(2, 2, 2) | block(20, 2, 2) | block(2, 14, 10)
    prediction = block(2, 2, 2) | block(20, 14, 10)
    prediction[20, 2, 2] = 1  # one voxel of 216 is not a tenth
    found = scores(prediction, truth)
    assert (found.lesions, found.found, found.false_positives) == (3, 1, 1)
    assert found.volume_error_ml == pytest.approx((216 * 2 + 1 - 216 * 3) * 2 / 1000)
    corner = np.zeros_like(truth)
    corner[0, 0, 0] = corner[1, 1, 1] = 1
    assert scores(corner, corner).lesions == 1  # they share a corner


def test_empty_masks() -> None:
    truth, nothing = block(4, 4, 4), block(0, 0, 0) * 0
    both = scores(nothing, nothing)
    assert (both.dice, both.nsd, both.hd95_mm, both.false_positives) == (None, None, None, 0)
    diagonal: Any = pytest.approx(math.sqrt(32**2 + 24**2 + 40**2))
    missed = scores(nothing, truth)
    assert (missed.dice, missed.nsd, missed.hd95_mm, missed.found) == (0, 0, diagonal, 0)
    invented = scores(truth, nothing)
    assert (invented.dice, invented.nsd, invented.hd95_mm) == (0, 0, diagonal)
    assert (invented.lesions, invented.false_positives) == (0, 1)


def test_regions_are_scored_as_unions() -> None:
    truth = block(4, 4, 4) + block(6, 6, 6, side=2) * 2  # 1 around 3
    whole = measure(truth, Volume(truth, AFFINE), {"whole": (1, 3), "core": (3,)}, 1.0)
    assert whole["whole"].truth_ml == pytest.approx(216 * 2 / 1000)
    assert whole["core"].truth_ml == pytest.approx(8 * 2 / 1000)
