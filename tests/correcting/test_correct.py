"""Clicks and scribbles in space mend a label: on oblique, anisotropic grids, in all modalities, only around them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.case import Case
from maml_app.correcting.annotator import Annotator, next_click, next_scribble
from maml_app.correcting.correct import Corrected, Corrector, Marked, Prompt, along, empty
from maml_app.correcting.marks import (
    REACH_LEAST_MM,
    REACH_MM,
    REACH_SHARE,
    SURE_DRAWN_MM,
    SURE_MM,
    SURE_SHARE,
    Mark,
    Scene,
)
from maml_app.errors import CaseError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Array, Grid, Volume
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


def at(case: Case, place: tuple[float, float, float], inside: bool, asked: str = "flair") -> Prompt:
    return Prompt((read_grid(case.grids[asked]).affine @ (*place, 1.0))[None, :3], inside)


def truth(case: Case, asked: str) -> Array:
    """The lesion on an image's grid; flair's is moved by less than half a voxel."""
    label = empty(case, asked).voxels
    label[HOT] = 2
    return label


def clicked(case: Case, asked: str, label: Array, *prompts: Prompt, newest: int = 1) -> Corrected:
    volume = Volume(label, read_grid(case.grids[asked]).affine)
    return Corrector(BRATS).correct(case, volume, Marked(2, prompts, newest), None)


@pytest.mark.parametrize("asked", ["t1", "flair"])
def test_one_click_finds_what_one_modality_shows_on_the_grid_of_any(case: Case, asked: str) -> None:
    result = clicked(case, asked, empty(case, asked).voxels, at(case, CENTRE, inside=True))
    grid = read_grid(case.grids[asked])
    found, wanted = result.label.voxels == 2, truth(case, asked) == 2
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.8
    middle = grid.affine @ (*np.argwhere(found).mean(axis=0), 1.0)
    assert np.linalg.norm(middle[:3] - at(case, CENTRE, True).path_mm[0]) < 2.0
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
    away = np.linalg.norm(places - at(case, (23.0, 16.5, 9.0), True).path_mm[0], axis=1)
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
    with pytest.raises(CaseError, match="expected clicks and scribbles where the images show something, got one at"):
        clicked(case, "t1", empty(case, "t1").voxels, Prompt(np.array([[500.0, 0.0, 0.0]]), True))


def scribbled(case: Case, points: list[tuple[float, float, float]], inside: bool, asked: str = "t1") -> Prompt:
    """A scribble through points, voxel indices of an image, as a client's is read."""
    grid = read_grid(case.grids[asked])
    return Prompt(along(np.array(points) @ grid.affine[:3, :3].T + grid.affine[:3, 3], grid), inside)


def voxels_of(case: Case, prompt: Prompt, asked: str) -> tuple[Array, ...]:
    grid = read_grid(case.grids[asked])
    index = (prompt.path_mm - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    return tuple(np.round(index).astype(int).T)


def test_a_line_has_a_place_in_each_voxel_that_it_passes_through() -> None:
    grid = Grid(SHAPE, oblique(SPACING))
    index = np.array([(3.2, 4.1, 5.0), (11.7, 9.3, 5.4), (11.7, 2.0, 9.0), (11.7, 2.0, 9.0)])
    places = along(index @ grid.affine[:3, :3].T + grid.affine[:3, 3], grid)
    on_grid = (places - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    found = {tuple(voxel) for voxel in np.round(on_grid).astype(int).tolist()}
    shares = np.linspace(0, 1, 20_001)[:, None]
    legs = [first + shares * (last - first) for first, last in itertools.pairwise(index)]
    assert found == {tuple(voxel) for leg in legs for voxel in np.round(leg).astype(int).tolist()}
    steps = np.abs(np.diff(np.round(on_grid), axis=0))
    assert steps.sum(axis=1).max() == 1  # from voxel to voxel by faces
    single = places[:1]
    assert along(single, grid) is single


def test_a_click_is_a_path_of_one_place() -> None:
    """What a click did before there were paths, stated plainly."""
    rng = np.random.default_rng(2)
    shape, spacing = (15, 11, 9), (2.0, 2.5, 4.0)
    mask = ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0
    place, belongs = np.array([(7.3, 4.8, 4.1)]), rng.random(shape) > 0.4
    voxel = (7, 5, 4)
    for says in (True, False):
        scene = Scene(mask, [(place, says)], spacing)
        steps = [(np.arange(size) - at) * edge for size, at, edge in zip(shape, place[0], spacing, strict=True)]
        x, y, z = (step**2 for step in steps)
        away = np.sqrt(x[:, None, None] + y[:, None] + z)
        sure = max(min(SURE_MM, SURE_SHARE * scene.depth[voxel]), 0.51 * min(spacing))
        reach = min(REACH_MM, REACH_LEAST_MM + REACH_SHARE * scene.depth[voxel])
        np.testing.assert_array_equal(scene.newest.away, away)
        assert (scene.newest.sure.item(), scene.newest.reach) == (sure, reach)
        wanted = belongs | (away <= sure) if says else ~belongs | (away <= sure)
        change = wanted & (away <= reach) & (mask != says)
        parts, _ = ndimage.label(change | (away <= 1.01 * max(spacing)))
        np.testing.assert_array_equal(scene.mended(belongs), mask ^ (change & (parts == parts[voxel])))


def test_along_a_path_each_place_is_as_sure_as_its_own_depth_lets_it() -> None:
    spacing = (0.8, 3.0, 5.0)
    mask = np.zeros((30, 20, 12), bool)
    mask[:15, 4:16, 2:10] = True
    within, beyond = (np.asarray(ndimage.distance_transform_edt(part, sampling=spacing)) for part in (mask, ~mask))
    depth = np.where(mask, within, beyond)
    places = np.array([(x, 10.0, 6.0) for x in range(5, 22)])  # from within it out through its border
    mark = Mark((places, True), mask, depth, spacing)
    index = np.indices(mask.shape).transpose(1, 2, 3, 0)
    apart = np.linalg.norm((index[..., None, :] - places) * spacing, axis=-1)
    np.testing.assert_allclose(mark.away, apart.min(axis=-1))
    sure = np.asarray(mark.sure)
    for x in (5, 14, 15, 18, 21):
        own = float(depth[x, 10, 6])
        assert sure[x, 10, 6] == max(min(SURE_DRAWN_MM, SURE_SHARE * own), 0.51 * 0.8)
    # what the mask has already counts for nothing: the way out decides how far it reaches, and where from
    assert mark.reach == min(REACH_MM, REACH_LEAST_MM + REACH_SHARE * depth[21, 10, 6])
    assert sorted(mark.wrong[:, 0]) == list(range(15, 22))
    assert not mark.beside[:12].any()
    earlier = Mark((places, True), mask, depth, spacing, 6.0)
    near = mark.away <= 6.0
    np.testing.assert_array_equal(earlier.away[near], mark.away[near])
    assert (earlier.away[~near] > 6.0).all()


@pytest.mark.parametrize("asked", ["t1", "flair"])
def test_a_scribble_through_a_lesion_finds_it_on_the_grid_of_any_image(case: Case, asked: str) -> None:
    prompt = scribbled(case, [(23.0, 15.0, 9.0), (26.0, 18.0, 10.0), (28.5, 15.5, 11.0)], True)
    result = clicked(case, asked, empty(case, asked).voxels, prompt)
    found, wanted = result.label.voxels == 2, truth(case, asked) == 2
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.8
    assert found[voxels_of(case, prompt, asked)].all()
    again = clicked(case, asked, result.label.voxels, prompt)
    assert (again.label.voxels != result.label.voxels).sum() < 0.1 * found.sum()


def test_a_scribble_outside_takes_away_and_leaves_the_rest(case: Case) -> None:
    label = truth(case, "t1")
    label[8:14, 6:10, 8:12] = 2  # drawn where nothing is
    label[30:33, 14:20, 9:11] = 1  # another label, beside the lesion
    prompt = scribbled(case, [(5.0, 5.0, 9.0), (13.0, 9.0, 9.0), (10.0, 6.0, 11.0)], False)
    result = clicked(case, "t1", label, prompt)
    assert not (result.label.voxels[8:14, 6:10, 8:12] == 2).any()
    np.testing.assert_array_equal(result.label.voxels[HOT], label[HOT])
    np.testing.assert_array_equal(result.label.voxels == 1, label == 1)
    assert result.gained_ml == 0


def test_nothing_beyond_reach_of_a_scribble_changes_and_its_voxels_are_as_it_says(case: Case) -> None:
    label = empty(case, "t1").voxels
    label[5:8, 20:25, 4:9] = 2  # brush work elsewhere
    label[24:27, 15:18, 9:11] = 1  # another label, which it crosses
    prompt = scribbled(case, [(20.0, 12.0, 8.0), (31.0, 19.0, 12.0)], True)
    after = clicked(case, "t1", label, prompt).label.voxels
    np.testing.assert_array_equal(after == 1, label == 1)
    path = voxels_of(case, prompt, "t1")
    np.testing.assert_array_equal(after[path], np.where(label[path] == 1, 1, 2))
    assert (label[path] == 1).any()
    grid = read_grid(case.grids["t1"])
    changed = np.argwhere(after != label) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    away = np.linalg.norm(changed[:, None] - prompt.path_mm, axis=-1).min(axis=1)
    assert away.max() <= REACH_MM + np.linalg.norm(SPACING)
    np.testing.assert_array_equal(after[5:8, 20:25, 4:9], label[5:8, 20:25, 4:9])


def test_a_scribble_may_leave_the_images_but_not_lie_beside_them(case: Case) -> None:
    leaves = scribbled(case, [(25.0, 16.0, 10.0), (25.0, 60.0, 10.0)], True)
    assert clicked(case, "t1", empty(case, "t1").voxels, leaves).label.voxels[25, 29, 10] == 2
    with pytest.raises(CaseError, match="expected clicks and scribbles where the images show something"):
        clicked(case, "t1", empty(case, "t1").voxels, scribbled(case, [(25.0, 60.0, 10.0), (25.0, 70.0, 10.0)], True))


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
    place = np.linalg.inv(grid.affine) @ (*click.path_mm[0], 1.0)
    assert 22 <= round(place[0]) < 30
    assert round(place[2]) in (11, 12)
    assert next_click(Volume(wanted, grid.affine), wanted, 2, rng) is None


def test_the_played_annotator_scribbles_along_the_largest_error_on_one_slice() -> None:
    grid = Grid((40, 30, 24), oblique((1.5, 2.0, 3.0)))
    wanted = np.zeros(grid.shape, np.uint8)
    wanted[10:31, 8:12, 5:8] = 2  # 31 mm long, 8 mm wide
    label = np.zeros_like(wanted)
    scribble = next_scribble(Volume(label, grid.affine), wanted, 2, np.random.default_rng(0))
    assert scribble is not None
    assert scribble.inside
    inverse = np.linalg.inv(grid.affine)
    places = np.array([(inverse @ (*point, 1.0))[:3] for point in scribble.path_mm])
    voxels = np.round(places).astype(int)
    assert (wanted[tuple(voxels.T)] == 2).all()
    assert len(np.unique(voxels, axis=0)) == len(voxels)
    assert set(voxels[:, 2]) == {6}  # the middle slice
    assert np.ptp(voxels[:, 0]) >= 17  # along it
    assert not next_scribble(Volume(wanted, grid.affine), wanted, 2, np.random.default_rng(0))
    # too much is taken away along a line as well
    taken = next_scribble(Volume(wanted, grid.affine), label, 2, np.random.default_rng(0))
    assert taken is not None
    assert not taken.inside
    assert len(taken.path_mm) > 10


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
    drawn = CliRunner().invoke(app, [*words, "--scribbles"])
    assert drawn.exit_code == 0, drawn.output
    assert "scribbles made it worse" in drawn.output
    seeing_t1 = CliRunner().invoke(app, [*words, "--only", "t1", "--json"])
    assert seeing_t1.exit_code == 0, seeing_t1.output
