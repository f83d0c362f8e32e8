"""nnInteractive's server draws in our place: through its own client, on the image's voxels, on oblique grids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maml_app.cases.case import Case
from maml_app.correcting import nninteractive
from maml_app.correcting.correct import Marked, Prompt, along, empty
from maml_app.correcting.nninteractive import NnInteractive
from maml_app.errors import CaseError, GuestError, SettingsError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Array, Volume
from maml_app.settings import Settings
from maml_app.stores.folder import FolderStore
from tests.builders import oblique, save, shipped
from tests.harness.nninteractive import StandIn

BRATS = shipped("brats_mr")
SHAPE = (20, 15, 12)
HOT = (np.s_[5:11, 4:7, 3:8], np.s_[9:16, 4:6, 3:5], np.s_[5:7, 4:12, 6:8])  # three arms, each of another length
START = ["/claim", "/set_image", "/set_target_buffer"]


def lesion() -> Array:
    mask = np.zeros(SHAPE, bool)
    for part in HOT:
        mask[part] = True
    return mask


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """The lesion is bright in flair, whose grid is oblique with three different edges."""
    for name in ("t1", "flair"):
        image = np.full(SHAPE, 100, np.float32)
        image[lesion()] = 900 if name == "flair" else 100
        image[0, 0, 0] = 1000
        save(tmp_path / "studies" / "A" / f"{name}.nii.gz", image, oblique((1.5, 2.0, 3.5)))
    return FolderStore(tmp_path / "studies", BRATS).case("A")


@pytest.fixture
def there() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


def line(case: Case, *points: tuple[float, float, float], inside: bool = True) -> Prompt:
    """A click, or a scribble through points, voxel indices of flair."""
    grid = read_grid(case.grids["flair"])
    mm = np.array([(grid.affine @ (*point, 1.0))[:3] for point in points])
    return Prompt(along(mm, grid), inside)


def drawn(case: Case, label: Array) -> Volume:
    return Volume(label, read_grid(case.grids["flair"]).affine)


def test_a_click_is_answered_on_the_voxels_of_the_image(case: Case, there: StandIn) -> None:
    label = empty(case, "flair").voxels
    label[6:8, 4:6, 3:5] = 1  # another label, which stays
    guest = NnInteractive(there.url)
    found = guest.correct(case, "flair", drawn(case, label), Marked(2, [line(case, (10.2, 5.1, 3.9))]))
    expected = np.where(lesion() & (label == 0), 2, label)
    np.testing.assert_array_equal(found.label.voxels, expected)
    assert found.by == "nnInteractive, weights CC BY-NC-SA 4.0"
    voxel_ml = 1.5 * 2.0 * 3.5 / 1000
    assert found.gained_ml == pytest.approx((expected == 2).sum() * voxel_ml, abs=1e-4)
    assert found.lost_ml == 0
    assert there.image.shape == SHAPE[::-1]
    np.testing.assert_array_equal(np.argwhere(there.drawn), [[4, 5, 10]])
    # the image is there already: nothing but the prompt goes there
    there.asked.clear()
    guest.correct(case, "flair", found.label, Marked(2, [line(case, (10, 5, 4))]))
    assert there.asked == ["/add_initial_seg_interaction", "/add_point_interaction"]
    # another image is another session
    there.asked.clear()
    guest.correct(case, "t1", drawn(case, label), Marked(2, [line(case, (10, 5, 4))]))
    assert there.asked == ["/release", *START, "/reset_interactions", "/add_point_interaction"]


def test_a_scribble_is_drawn_in_its_slice_and_starts_from_the_label(case: Case, there: StandIn) -> None:
    label = np.where(lesion(), 2, 0).astype(np.uint8)
    label[17:19, 12:14, 9:11] = 2  # brush work, which nobody speaks of
    away = line(case, (6, 5, 7), (6, 9, 7), inside=False)  # along one arm
    found = NnInteractive(there.url).correct(case, "flair", drawn(case, label), Marked(2, [away]))
    gone = (label == 2) & (found.label.voxels == 0)
    assert found.lost_ml == pytest.approx(gone.sum() * 1.5 * 2.0 * 3.5 / 1000, abs=1e-4)
    assert found.gained_ml == 0
    assert gone[6, 5:10, 7].all()
    places = np.argwhere(there.drawn)[:, ::-1]
    assert (places[:, 2] == 7).all()
    np.testing.assert_array_equal(places.min(axis=0), [5, 4, 7])
    np.testing.assert_array_equal(places.max(axis=0), [7, 10, 7])
    assert (found.label.voxels[17:19, 12:14, 9:11] == 2).all()


def test_a_scribble_through_several_slices_is_drawn_in_each(case: Case, there: StandIn) -> None:
    label = np.where(lesion(), 2, 0).astype(np.uint8)
    across = line(case, (5, 4, 6), (10, 6, 7), inside=False)
    found = NnInteractive(there.url).correct(case, "flair", drawn(case, label), Marked(2, [across]))
    gone = np.argwhere((label == 2) & (found.label.voxels == 0))
    assert set(gone[:, 2]) == {6, 7}
    assert there.asked.count("/add_scribble_interaction") == 2
    for place in np.unique(np.round(np.linspace((5, 4, 6), (10, 6, 7), 30)).astype(int), axis=0):
        assert found.label.voxels[tuple(place)] == 0


def test_a_session_that_is_gone_is_begun_anew(case: Case, there: StandIn) -> None:
    guest = NnInteractive(there.url)
    label = drawn(case, empty(case, "flair").voxels)
    first = guest.correct(case, "flair", label, Marked(2, [line(case, (10, 5, 4))]))
    there.forget()
    there.asked.clear()
    second = guest.correct(case, "flair", label, Marked(2, [line(case, (10, 5, 4))]))
    np.testing.assert_array_equal(first.label.voxels, second.label.voxels)
    assert there.asked == [*START, "/reset_interactions", "/add_point_interaction"]


def test_what_goes_wrong_there_is_told(case: Case, there: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    label, marked = drawn(case, empty(case, "flair").voxels), Marked(2, [line(case, (10, 5, 4))])
    guest = NnInteractive(there.url)
    there.busy = True
    with pytest.raises(GuestError, match="is busy with others: at capacity; click again later"):
        guest.correct(case, "flair", label, marked)
    there.busy, there.key = False, "secret"
    with pytest.raises(GuestError, match=r"got 401: .*invalid api key"):
        guest.correct(case, "flair", label, marked)
    monkeypatch.setenv("NN_INTERACTIVE_API_KEY", "secret")
    there.other = True
    with pytest.raises(GuestError, match="got what its client does not understand"):
        guest.correct(case, "flair", label, marked)
    there.other = False
    assert guest.correct(case, "flair", label, marked).gained_ml > 0
    with pytest.raises(CaseError, match="looks at one image, expected clicks and scribbles within it, got one at"):
        guest.correct(case, "flair", label, Marked(2, [Prompt(np.array([[500.0, 0.0, 0.0]]), True)]))
    with pytest.raises(GuestError, match=r"expected nnInteractive at http://127.0.0.1:9, got no answer"):
        NnInteractive("http://127.0.0.1:9").correct(case, "flair", label, marked)


def test_without_its_client_or_with_no_address_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="--conf nninteractive: String should match"):
        Settings.read({"nninteractive": "gpu:1527"})
    monkeypatch.setattr(nninteractive, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install maml-app\[nninteractive\]"):
        NnInteractive("http://gpu:1527")
