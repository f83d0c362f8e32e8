"""One label a case, and several people: what is stored, what waits for a choice, what is told."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from maml_app.cases.history import State, Told
from maml_app.cases.recipe import Review
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, ConflictError, LabelError
from maml_app.imaging.files import read_grid, read_label
from maml_app.imaging.labels import read_case_label, read_stored_label
from maml_app.imaging.volume import Volume
from maml_app.labelling.proposals import KEPT, Proposals
from maml_app.labelling.saving import Pick, Sent, choose, restore, save
from maml_app.stores.folder import FolderStore
from tests.builders import brain, lesion, oblique, shipped, tissue
from tests.builders import save as write_file

CASE = "phantom_004"  # has no label


@pytest.fixture
def store(studies: Path, spec: TaskSpec, tmp_path: Path) -> FolderStore:
    return FolderStore(studies, spec, tmp_path / "state")


def label_of(store: FolderStore, size: int, case: str = CASE) -> Volume:
    grid = read_grid(store.case(case).images["ct"])
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[2 : 2 + size, 3:5, 1:3] = 2
    return Volume(voxels, grid.affine)


def sent(store: FolderStore, size: int, nothing_there: bool = False, **told: object) -> Sent:
    return Sent(CASE, label_of(store, size), Told(**told), nothing_there=nothing_there)  # type: ignore[arg-type]


def test_a_label_says_who_drew_it_and_is_not_stored_twice(store: FolderStore, spec: TaskSpec) -> None:
    first = save(store, spec, sent(store, 3, author="anna", client="OHIF", comment="the necrosis too"))
    assert (first.label, first.author, first.client) == ("final-0001", "anna", "OHIF")
    assert first.comment == "the necrosis too"
    assert first.image == "ct"
    assert first.volume_ml.keys() == {"lesion"}
    again = save(store, spec, sent(store, 3, author="anna"))
    assert again.label == "final-0001"
    other = save(store, spec, sent(store, 3, author="ben"))  # the same drawing by someone else is an opinion of its own
    assert (other.label, other.parent) == ("final-0002", "final-0001")


def test_what_was_changed_since_the_proposal_is_kept_with_the_label(store: FolderStore, spec: TaskSpec) -> None:
    content = Proposals(store.state).keep(CASE, label_of(store, 3), "v0007")
    entry = save(store, spec, sent(store, 4, author="anna"))  # a client that does not say from what it started
    assert (entry.proposal.model, entry.proposal.content) == ("v0007", content)
    assert entry.changes["lesion"].voxels == 4
    assert entry.changes["lesion"].dice == pytest.approx(2 * 12 / (12 + 16))
    assert entry.seconds is not None
    assert 0 <= entry.seconds < 600
    # from a label and not from a proposal: nothing of a proposal is told
    assert save(store, spec, sent(store, 5, author="anna", parent="final-0001")).changes == {}
    # the newest proposal is older than the newest label: it was not where this one started
    assert save(store, spec, sent(store, 6, author="anna")).changes == {}
    named = save(store, spec, sent(store, 7, proposal={"content": content}, seconds=12.5))
    assert (named.seconds, named.changes["lesion"].voxels) == (12.5, 16)


def test_few_proposals_of_a_case_are_kept(store: FolderStore) -> None:
    proposals = Proposals(store.state)
    hashes = [proposals.keep(CASE, label_of(store, size), "v1") for size in range(1, KEPT + 3)]
    assert [proposals.newest(CASE, content) is None for content in hashes] == [True, True] + [False] * KEPT
    newest = proposals.newest(CASE)
    assert newest is not None
    assert newest.content == hashes[-1]
    newest.path.write_bytes(b"damaged")
    assert newest.label() is None


def test_a_label_that_its_author_had_not_seen_is_not_replaced(store: FolderStore, spec: TaskSpec) -> None:
    save(store, spec, sent(store, 3, author="anna"))
    save(store, spec, sent(store, 4, author="ben", parent="final-0001"))
    with pytest.raises(ConflictError, match=r"ben saved final-0002 at .*, after you had opened final-0001 \(lesion"):
        save(store, spec, sent(store, 5, author="anna", parent="final-0001"))
    with pytest.raises(ConflictError, match="final-0003") as again:  # as after a broken connection: kept once
        save(store, spec, sent(store, 5, author="anna", parent="final-0001"))
    assert {name: again.value.details[name] for name in ("conflict", "mine", "theirs", "author")} == {
        "conflict": "unseen",
        "mine": "final-0003",
        "theirs": "final-0002",
        "author": "ben",
    }
    assert [found.state for found in store.history(CASE)] == [State.FINAL, State.FINAL, State.CONTESTED]
    newest = store.case(CASE).label
    assert newest is not None
    assert newest.id == "final-0002"
    assert choose(store, spec, CASE, "final-0003", Pick(True, "anna")).author == "anna"
    newest = store.case(CASE).label
    assert newest is not None
    assert newest.id == "final-0003"
    with pytest.raises(LabelError, match="waits for no choice, it is final"):
        choose(store, spec, CASE, "final-0003", Pick(True, "anna"))


def test_a_choice_comes_too_late_when_a_third_one_was_saved(store: FolderStore, spec: TaskSpec) -> None:
    save(store, spec, sent(store, 3, author="anna"))
    save(store, spec, sent(store, 4, author="ben", parent="final-0001"))
    with pytest.raises(ConflictError):
        save(store, spec, sent(store, 5, author="anna", parent="final-0001"))
    save(store, spec, sent(store, 6, author="carl", parent="final-0002"))
    with pytest.raises(ConflictError, match=r"carl saved final-0004 .*lesion: Dice 0.91") as late:
        choose(store, spec, CASE, "final-0003", Pick(True, "anna"))
    with pytest.raises(ConflictError, match="carl saved final-0004"):
        choose(store, spec, CASE, "final-0003", Pick(True, "anna", replaces="final-0002"))
    entry = choose(store, spec, CASE, "final-0003", Pick(True, "anna", replaces="final-0004"))
    assert late.value.details["theirs"] == "final-0004"
    assert (entry.label, entry.author, entry.restores, entry.parent) == (
        "final-0005",
        "anna",
        "final-0003",
        "final-0004",
    )
    assert [found.state for found in store.history(CASE)][2] == State.WITHDRAWN
    newest = store.case(CASE).label
    assert newest is not None
    assert newest.id == "final-0005"
    np.testing.assert_array_equal(read_stored_label(newest, spec).voxels, label_of(store, 5).voxels)


def test_of_two_that_wait_for_a_choice_the_second_can_be_chosen_too(store: FolderStore, spec: TaskSpec) -> None:
    save(store, spec, sent(store, 3, author="anna"))
    save(store, spec, sent(store, 4, author="ben", parent="final-0001"))
    for size, author in ((5, "anna"), (6, "carl")):
        with pytest.raises(ConflictError):
            save(store, spec, sent(store, size, author=author, parent="final-0001"))
    choose(store, spec, CASE, "final-0003", Pick(True, "anna"))
    with pytest.raises(ConflictError, match="anna saved final-0003"):
        choose(store, spec, CASE, "final-0004", Pick(True, "carl"))
    assert choose(store, spec, CASE, "final-0004", Pick(True, "carl", replaces="final-0003")).label == "final-0004"
    newest = store.case(CASE).label
    assert newest is not None
    assert newest.id == "final-0004"


def test_with_two_readings_a_choice_is_between_one_s_own(store: FolderStore, spec: TaskSpec) -> None:
    two = spec.model_copy(update={"review": Review(readings=2)})
    save(store, two, sent(store, 3, author="anna"))
    save(store, two, sent(store, 4, author="anna", parent="final-0001"))
    save(store, two, sent(store, 5, author="ben"))
    with pytest.raises(ConflictError, match="anna saved final-0002"):
        save(store, two, sent(store, 6, author="anna", parent="final-0001"))
    assert choose(store, two, CASE, "final-0004", Pick(True, "anna")).label == "final-0004"


def test_an_empty_label_over_a_drawn_one_has_to_be_meant(store: FolderStore, spec: TaskSpec) -> None:
    assert save(store, spec, sent(store, 0)).label == "final-0001"  # there was none: nothing is lost
    save(store, spec, sent(store, 3))
    with pytest.raises(ConflictError, match="the label sent is empty, and final-0002"):
        save(store, spec, sent(store, 0, parent="final-0002"))
    assert save(store, spec, sent(store, 0, parent="final-0002", nothing_there=True)).label == "final-0004"
    # a client that cannot be asked sends it once more
    save(store, spec, sent(store, 4))
    with pytest.raises(ConflictError, match="or send it once more"):
        save(store, spec, sent(store, 0))
    assert save(store, spec, sent(store, 0)).label == "final-0006"
    newest = store.case(CASE).label
    assert newest is not None
    assert newest.id == "final-0006"


def test_an_earlier_version_can_be_restored(store: FolderStore, spec: TaskSpec) -> None:
    save(store, spec, sent(store, 3, author="anna"))
    save(store, spec, sent(store, 5, author="anna"))
    entry = restore(store, spec, CASE, "final-0001", Told(author="ben"))
    assert (entry.label, entry.restores, entry.parent, entry.author) == (
        "final-0003",
        "final-0001",
        "final-0002",
        "ben",
    )
    newest = store.case(CASE).label
    assert newest is not None
    assert np.array_equal(read_label(newest.path).voxels, label_of(store, 3).voxels)
    with pytest.raises(CaseError, match=r"expected a label of \['final-0001'.*got 'final-0009'"):
        restore(store, spec, CASE, "final-0009", Told())


def test_a_label_drawn_where_itk_sees_the_image_is_on_its_voxels(tmp_path: Path) -> None:
    """A converter wrote the cosines of the sform with three decimals: it is skewed, and the qform is not."""
    spec, shape = shipped("brats_mr"), (200, 200, 12)
    path = tmp_path / "A" / "t1.nii.gz"
    affine = oblique((0.9, 0.9, 5.0))
    affine[:3, :3] = (affine[:3, :3] / (0.9, 0.9, 5.0)).round(3) * (0.9, 0.9, 5.0)
    image = nib.Nifti1Image(np.random.default_rng(0).integers(80, 120, shape).astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)  # nibabel leaves the shears out
    image.header.set_xyzt_units("mm")
    path.parent.mkdir()
    nib.save(image, path)
    seen = sitk.ReadImage(str(path))
    drawn = np.zeros(shape, np.uint8)
    drawn[20:40, 150:160, 3:5] = 1
    label = sitk.GetImageFromArray(drawn.T)
    label.CopyInformation(seen)
    sitk.WriteImage(label, str(tmp_path / "label.nrrd"))
    sent_label = read_label(tmp_path / "label.nrrd")
    store = FolderStore(tmp_path, spec)
    grid = read_grid(store.case("A").images["t1"])
    assert not grid.same_as(sent_label.grid)
    assert save(store, spec, Sent("A", sent_label)).image == "t1"
    stored = read_case_label(store.case("A"), spec)
    assert stored.grid.same_as(grid)
    np.testing.assert_array_equal(stored.voxels, drawn)


def test_a_label_on_an_image_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    spec, affine = shipped("brats_mr"), oblique()
    affine[:3, 3] += 400
    brain(tmp_path / "A")
    write_file(tmp_path / "A" / "flair.nii.gz", tissue(700), affine)
    store = FolderStore(tmp_path, spec)
    with pytest.raises(LabelError, match="flair cannot be used: it does not overlap t1ce in space"):
        save(store, spec, Sent("A@flair", Volume(lesion(), affine)))
    assert store.history("A") == []
    assert save(store, spec, Sent("A@flair", Volume(lesion(), oblique()))).image == "t1"
