"""Clicks in space mend a label: on oblique, anisotropic grids, in all modalities, and nowhere but around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.case import Case
from maml_app.correcting.annotator import Annotator, next_click
from maml_app.correcting.correct import Click, Corrected, Corrector, Marked, empty
from maml_app.correcting.marks import REACH_MM, SURE_MM
from maml_app.errors import CaseError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Array, Volume
from maml_app.stores.folder import FolderStore
from tests.builders import oblique, save, shipped

BRATS = shipped("brats_mr")
SHAPE = (40, 30, 24)
SPACING = (1.5, 2.0, 3.0)
HOT = np.s_[22:30, 14:20, 8:13]  # an asymmetric lesion, in one modality only
CENTRE = (25.5, 16.5, 10.0)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Four modalities on one oblique grid, but flair on another; the lesion is bright in flair alone."""
    rng = np.random.default_rng(0)
    affine = oblique(SPACING)
    flair = affine.copy()
    flair[:3, 3] += affine[:3, :3] @ (0.4, -0.3, 0.2)
    for name in ("t1", "t1ce", "t2", "flair"):
        image = np.zeros(SHAPE, np.float32)
        image[4:36, 4:26, 3:21] = 500 + rng.normal(0, 15, (32, 22, 18))
        if name == "flair":
            image[HOT] += 300
        save(tmp_path / "studies" / "A" / f"{name}.nii.gz", image, flair if name == "flair" else affine)
    return FolderStore(tmp_path / "studies", BRATS).case("A")


def at(case: Case, place: tuple[float, float, float], inside: bool, asked: str = "flair") -> Click:
    x, y, z = (read_grid(case.grids[asked]).affine @ (*place, 1.0))[:3]
    return Click((float(x), float(y), float(z)), inside)


def truth(case: Case, asked: str) -> Array:
    """The lesion on an image's grid; flair's is moved by less than half a voxel."""
    label = empty(case, asked).voxels
    label[HOT] = 2
    return label


def clicked(case: Case, asked: str, label: Array, *clicks: Click, newest: int = 1) -> Corrected:
    volume = Volume(label, read_grid(case.grids[asked]).affine)
    return Corrector(BRATS).correct(case, volume, Marked(2, clicks, newest), None)


@pytest.mark.parametrize("asked", ["t1", "flair"])
def test_one_click_finds_what_one_modality_shows_on_the_grid_of_any(case: Case, asked: str) -> None:
    result = clicked(case, asked, empty(case, asked).voxels, at(case, CENTRE, inside=True))
    grid = read_grid(case.grids[asked])
    found, wanted = result.label.voxels == 2, truth(case, asked) == 2
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.8
    middle = grid.affine @ (*np.argwhere(found).mean(axis=0), 1.0)
    assert np.linalg.norm(middle[:3] - at(case, CENTRE, True).place_mm) < 2.0
    assert result.gained_ml == pytest.approx(found.sum() * grid.voxel_ml, rel=1e-3)
    assert result.lost_ml == 0


def test_a_click_outside_takes_away_what_belongs_together(case: Case) -> None:
    label = truth(case, "t1")
    label[8:14, 6:10, 8:12] = 2  # drawn where nothing is
    result = clicked(case, "t1", label, at(case, (10.5, 7.5, 9.5), False, "t1"))
    assert not (result.label.voxels[8:14, 6:10, 8:12] == 2).any()
    np.testing.assert_array_equal(result.label.voxels[HOT], label[HOT])
    assert result.gained_ml == 0
    assert result.lost_ml == pytest.approx(6 * 4 * 4 * 0.009, rel=0.01)


def test_nothing_far_away_and_no_other_label_is_changed(case: Case) -> None:
    label = empty(case, "t1").voxels
    label[5:8, 20:25, 4:9] = 2  # brush work elsewhere
    label[24:27, 15:18, 9:11] = 1  # another label, within the lesion
    result = clicked(case, "t1", label, at(case, (23.0, 16.5, 9.0), inside=True))
    np.testing.assert_array_equal(result.label.voxels == 1, label == 1)
    np.testing.assert_array_equal(result.label.voxels[5:8, 20:25, 4:9], label[5:8, 20:25, 4:9])
    changed = np.argwhere(result.label.voxels != label)
    grid = read_grid(case.grids["t1"])
    places = changed @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    away = np.linalg.norm(places - at(case, (23.0, 16.5, 9.0), True).place_mm, axis=1)
    assert len(away)
    assert away.max() <= REACH_MM + np.linalg.norm(SPACING)


def test_the_clicked_voxel_is_as_the_click_says_whatever_the_classifier_finds(case: Case) -> None:
    label = truth(case, "flair")
    for inside, place in ((False, (25, 16, 10)), (True, (6, 5, 4))):
        result = clicked(case, "flair", label, at(case, place, inside))
        assert (result.label.voxels[place] == 2) == inside
    # clicks before the newest are kept to: around them nothing is taken away
    first, second = at(case, CENTRE, True), at(case, (29.0, 19.0, 12.0), False)
    result = clicked(case, "flair", label, first, second)
    distance = ndimage.distance_transform_edt(
        np.indices(SHAPE).transpose(1, 2, 3, 0).__ne__(np.round(CENTRE)).any(axis=-1), sampling=SPACING
    )
    near = (distance < SURE_MM / 2) & (label == 2)
    assert near.any()
    assert (result.label.voxels[near] == 2).all()


def test_all_clicks_at_once_are_the_clicks_one_by_one(case: Case) -> None:
    clicks = [at(case, CENTRE, True), at(case, (10.0, 8.0, 8.0), False), at(case, (23.0, 15.0, 9.0), True)]
    together = clicked(case, "t1", empty(case, "t1").voxels, *clicks, newest=3)
    label = empty(case, "t1").voxels
    for last in range(3):
        label = clicked(case, "t1", label, *clicks[: last + 1]).label.voxels
    assert (together.label.voxels != label).mean() < 0.005  # once to the other grid and back, against three times


def test_a_click_beside_the_images_is_refused(case: Case) -> None:
    with pytest.raises(CaseError, match="expected clicks within the images, got one at"):
        clicked(case, "t1", empty(case, "t1").voxels, Click((500.0, 0.0, 0.0), True))


def test_the_played_annotator_clicks_into_the_largest_error(case: Case) -> None:
    grid = read_grid(case.grids["t1"])
    wanted = truth(case, "t1")
    label = np.zeros_like(wanted)
    label[22:30, 14:20, 8:11] = 2
    label[5, 5, 5] = 2
    rng = np.random.default_rng(0)
    click = next_click(Volume(label, grid.affine), wanted, 2, rng)
    assert click is not None
    assert click.inside
    place = np.linalg.inv(grid.affine) @ (*click.place_mm, 1.0)
    assert 22 <= round(place[0]) < 30
    assert round(place[2]) in (11, 12)
    assert next_click(Volume(wanted, grid.affine), wanted, 2, rng) is None


def test_clicks_make_a_case_better_and_the_command_tells(case: Case, tmp_path: Path) -> None:
    grid = read_grid(case.grids["t1"])
    wanted = Volume(truth(case, "t1"), grid.affine)
    session = Annotator(Corrector(BRATS), None, 4).play(case, wanted, empty(case, "t1"), 2)
    assert session.dice[0] == 0
    assert session.dice[-1] > 0.85
    assert len(session.dice) == 5
    assert session.harmful <= 1
    save(tmp_path / "studies" / "A" / "label.nii.gz", wanted.voxels, grid.affine)
    words = ["correct", "--simulate", "--studies", str(tmp_path / "studies"), "--task", "brats_mr", "--rounds", "3"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert "clicks made it worse" in answer.output
    seeing_t1 = CliRunner().invoke(app, [*words, "--only", "t1", "--json"])
    assert seeing_t1.exit_code == 0, seeing_t1.output
