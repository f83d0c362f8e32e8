from __future__ import annotations

import numpy as np
import pytest

from maml_app.cases.spec import TaskSpec
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.volume import Grid, Volume
from maml_app.labelling.comparing import added_path_mm, changes, in_words
from tests.builders import SHAPE, oblique


def block(value: int, *places: tuple[slice, slice, slice]) -> Volume:
    voxels = np.zeros(SHAPE, np.uint8)
    for place in places:
        voxels[place] = value
    return Volume(voxels, oblique((2, 2, 5)))


BEFORE = np.s_[2:6, 3:6, 2:4]  # 4 x 3 voxels in two slices


def test_what_a_person_changed_is_counted_label_by_label(spec: TaskSpec) -> None:
    before = block(2, BEFORE)
    after = block(2, BEFORE, np.s_[6:8, 3:6, 2:3])
    after.voxels[0, 0, 0] = 1
    found = changes(after, before, spec)
    assert list(found) == ["organ", "lesion"]
    assert found["lesion"].voxels == 6
    assert found["lesion"].ml == pytest.approx(6 * 0.02)
    assert found["lesion"].dice == pytest.approx(2 * 24 / (24 + 30))
    assert found["organ"].dice == 0
    assert found["organ"].surface_dice == 0
    assert found["lesion"].surface_dice is not None
    assert 0.5 < found["lesion"].surface_dice < 1
    assert changes(before, before, spec)["lesion"].model_dump() == {
        "voxels": 0,
        "ml": 0.0,
        "dice": 1.0,
        "surface_dice": 1.0,
        "added_path_mm": 0.0,
    }
    assert changes(block(0), block(0), spec) == {}
    assert in_words({}) == "both are empty"
    assert in_words(found).endswith("lesion: Dice 0.89, 0.12 ml differ")


def test_the_added_path_is_drawn_in_slices_across_the_thickest_axis() -> None:
    """By hand: of 4 x 3 voxels in a slice, 2 lie inside; of 6 x 3, 4: the contour has 10 and 14 voxels."""
    before = block(1, BEFORE)
    after = block(1, BEFORE, np.s_[6:8, 3:6, 2:3])
    # of its 14 the old contour has those along both long sides and one short side
    new = 14 - len({(x, y) for x in range(2, 6) for y in (3, 5)} | {(2, 4)})
    assert added_path_mm(after, before.voxels > 0) == new * 2.0
    assert added_path_mm(before, before.voxels > 0) == 0
    assert added_path_mm(before, before.voxels < 0) == 2 * 10 * 2.0
    # slices across the first axis: thick there
    turned = Volume(before.voxels, oblique((5, 2, 2)))
    assert added_path_mm(turned, before.voxels < 0) == 4 * (3 * 2) * 2.0  # 3 x 2 voxels: all are contour


def test_a_proposal_on_another_series_is_brought_onto_the_labels_grid(spec: TaskSpec) -> None:
    label = block(2, BEFORE, np.s_[8:9, 3:4, 2:3])
    affine = oblique((1.5, 3.0, 4.0))
    affine[:3, 3] += (1.0, -2.0, 3.0)
    grid = Grid((20, 12, 14), affine)
    other = Volume(resample_label(label.voxels, label.grid, grid), affine)
    found = changes(label, other, spec)["lesion"]
    back = resample_label(other.voxels, grid, label.grid)
    assert found.voxels == int(((back == 2) ^ (label.voxels == 2)).sum())
    assert found.dice is not None
    assert found.dice > 0.8
    mirrored = Volume(other.voxels[::-1].copy(), affine)
    assert (changes(label, mirrored, spec)["lesion"].dice or 0) < 0.5
