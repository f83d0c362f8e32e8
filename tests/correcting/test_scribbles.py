"""A labelmap with scribbles, as 3D Slicer exports it: what lies beneath, which are new, and that nothing creeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maml_app.cases.case import Case
from maml_app.correcting.correct import Corrector
from maml_app.correcting.scribbles import Drawn, read_scribbles
from maml_app.errors import LabelError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Array, Volume
from maml_app.labelling.incoming import Segment
from maml_app.stores.folder import FolderStore
from tests.builders import oblique, save, shipped

BRATS = shipped("brats_mr")
SHAPE = (40, 30, 24)
HOT = np.s_[22:30, 14:20, 8:13]
# as a viewer numbers them: not the task's values, and the label to mend is not the first
SEGMENTS = [Segment("edema", 1), Segment("enhancing", 2), Segment("background_scribbles", 3)]
SEGMENTS += [Segment("foreground_scribbles", 4)]
AGAINST, FOR = 3, 4


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """One modality on an oblique, anisotropic grid; the lesion is bright in it."""
    image = np.zeros(SHAPE, np.float32)
    image[4:36, 4:26, 3:21] = 500 + np.random.default_rng(0).normal(0, 15, (32, 22, 18))
    image[HOT] += 300
    save(tmp_path / "studies" / "A" / "flair.nii.gz", image, oblique((1.5, 2.0, 3.0)))
    return FolderStore(tmp_path / "studies", BRATS).case("A")


def value_of(name: str) -> int:
    value = BRATS.value_of(name)
    assert value is not None
    return value


def read(case: Case, labelmap: Array, name: str = "edema", segments: list[Segment] = SEGMENTS) -> Drawn:
    volume = Volume(labelmap, read_grid(case.grids["flair"]).affine)
    return read_scribbles(case, volume, BRATS, segments, ("flair", value_of(name)))


def answered(case: Case, labelmap: Array) -> tuple[Array, int]:
    """The labelmap after an answer, exported again with the same scribbles over it; and how many were applied."""
    drawn = read(case, labelmap)
    assert drawn.label is not None
    result = Corrector(BRATS).correct(case, drawn.label, drawn.marked, None)
    mask = drawn.settled(result.label).voxels == value_of("edema")
    after = np.where(mask, 1, np.where(labelmap == 1, 0, labelmap)).astype(np.uint8)
    after[labelmap >= AGAINST] = labelmap[labelmap >= AGAINST]
    return after, len(drawn.marked.applied)


def test_what_lies_beneath_is_what_lies_beside_and_prompts_lie_where_they_were_drawn(case: Case) -> None:
    labelmap = np.zeros(SHAPE, np.uint8)
    labelmap[20:26, 14:20, 8:13] = 1
    labelmap[30:34, 14:20, 8:13] = 2
    labelmap[23:29, 16, 10] = FOR  # out of the label
    labelmap[21, 15:17, 10] = AGAINST
    drawn = read(case, labelmap)
    assert drawn.label is not None
    beneath = drawn.label.voxels
    edema, enhancing = value_of("edema"), value_of("enhancing")
    assert beneath[23:29, 16, 10].tolist() == [edema, edema, edema, 0, 0, 0]
    assert (beneath[21, 15:17, 10] == edema).all()
    assert (beneath[30:34, 14:20, 8:13] == enhancing).all()
    assert [prompt.inside for prompt in drawn.marked.applied] == [False, True]
    grid = read_grid(case.grids["flair"])
    places = (drawn.marked.prompts[1].path_mm - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    np.testing.assert_allclose(places, [(x, 16, 10) for x in range(23, 29)], atol=1e-9)


def test_a_scribble_the_label_agrees_with_was_answered_before_one_on_the_next_slice_was_not(case: Case) -> None:
    labelmap = np.zeros(SHAPE, np.uint8)
    labelmap[20:30, 12:22, 10] = 1
    labelmap[22:28, 16, 10] = FOR
    assert not read(case, labelmap).marked.applied
    assert (read(case, labelmap).label or Volume(labelmap, np.eye(4))).voxels[25, 16, 10] == value_of("edema")
    labelmap[22:28, 16, 11] = FOR  # connected with the first
    labelmap[5:9, 5, 11] = AGAINST  # where nothing is: agreed
    labelmap[24, 13:15, 10] = AGAINST
    assert [prompt.inside for prompt in read(case, labelmap).marked.applied] == [False, True]
    labelmap[22:28, 16, 10] = 1
    assert [len(prompt.path_mm) for prompt in read(case, labelmap).marked.applied] == [2, 6]


def test_sent_again_nothing_creeps_and_brush_work_stays(case: Case) -> None:
    labelmap = np.zeros(SHAPE, np.uint8)
    labelmap[8:14, 6:10, 8:12] = 1  # drawn where nothing is
    labelmap[24:27, 15:18, 9] = 2
    labelmap[5:8, 20:24, 4:8] = 1  # brush work elsewhere
    labelmap[23:29, 16, 10] = FOR
    labelmap[28, 17:19, 11] = FOR
    labelmap[7:13, 8, 10] = AGAINST
    after, count = answered(case, labelmap)
    assert count > 1
    found = (after == 1) | (after == FOR)
    inside = np.zeros(SHAPE, bool)
    inside[HOT] = True
    assert (found & inside).sum() > 0.8 * (inside & (labelmap != 2)).sum()
    assert not (after[8:14, 6:10, 8:12] == 1).any()
    np.testing.assert_array_equal(after == 2, labelmap == 2)
    assert (after[5:8, 20:24, 4:8] == 1).all()
    again, count = answered(case, after)
    np.testing.assert_array_equal(again, after)
    assert count == 0
    # one more: the others are not applied anew
    after[14:17, 22, 15] = FOR
    more, count = answered(case, after)
    assert count == 1
    assert answered(case, more)[1] == 0


def test_a_scribble_that_stands_alone_is_left_with_neighbours_of_its_kind(case: Case) -> None:
    labelmap = np.zeros(SHAPE, np.uint8)
    labelmap[10:15, 10, 10] = FOR
    drawn = read(case, labelmap)
    assert drawn.label is not None
    alone = replace(drawn.label, voxels=np.where(labelmap == FOR, value_of("edema"), 0).astype(np.uint8))
    voxels = drawn.settled(alone).voxels
    assert (voxels[9:16, 9:12, 10] == value_of("edema")).all()
    assert (voxels > 0).sum() == 7 * 3


@pytest.mark.parametrize(
    ("value", "name", "step", "words"),
    [
        (9, "enhancing", 1.0, r"expected label_info to name every value of the labelmap, got none for \[9\]"),
        (0, "enhancing", 1.0, "expected scribbles in the labelmap"),
        (FOR, "spleen", 1.0, "label value 2: expected a segment named one of"),
        (FOR, "enhancing", 1.1, "expected the label where flair lies"),
    ],
)
def test_labelmaps_that_are_none_are_refused(case: Case, value: int, name: str, step: float, words: str) -> None:
    labelmap = np.zeros(SHAPE, np.uint8)
    labelmap[3, 3, 3], labelmap[9, 9, 9] = 2, value
    volume = Volume(labelmap, read_grid(case.grids["flair"]).affine @ np.diag([step, 1, 1, 1]))
    segments = [SEGMENTS[0], Segment(name, 2), *SEGMENTS[2:]]
    with pytest.raises(LabelError, match=words):
        read_scribbles(case, volume, BRATS, segments, ("flair", value_of("edema")))
