from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from maml_app.cases.case import FileRef
from maml_app.cases.spec import TaskSpec, parse_task
from maml_app.errors import CaseError, ImageError, LabelError, StudiesError
from maml_app.imaging.files import read_image, read_label, write_label
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.volume import Array
from maml_app.labelling.incoming import Segment
from maml_app.stores.folder import FolderStore
from tests.builders import brain, edit, keep, lesion, oblique, save, shipped


def drawn(
    store: FolderStore, tmp_path: Path, case_id: str = "phantom_004", modality: str = "ct", value: int = 2
) -> Path:
    """A small label on a modality's grid, as a client would send it."""
    grid = read_image(store.case(case_id).images[modality]).grid
    label = np.zeros(grid.shape, np.uint8)
    label[2:5, 3:4, 1:2] = value
    path = tmp_path / f"sent-{modality}-{value}.nii.gz"
    write_label(path, label, grid.affine)
    return path


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_image_ids_name_a_case_or_one_of_its_images(store: FolderStore) -> None:
    assert store.resolve("phantom_000")[1] == "ct"
    assert store.resolve("phantom_003")[1] == "pet"  # lacks ct: the next modality lends the frame
    assert store.resolve("phantom_000@mr_t1")[1] == "mr_t1"
    with pytest.raises(CaseError, match=r"case phantom_003: expected one of its images \['mr_t1', 'pet'\], got 'ct'"):
        store.resolve("phantom_003@ct")
    for wrong in ("nobody", "../phantom_000", "", "/etc/passwd"):
        with pytest.raises(CaseError, match="got the unknown id"):
            store.resolve(wrong)


def test_a_label_beside_the_images_is_the_first_final_one(store: FolderStore) -> None:
    label = store.case("phantom_000").label
    assert label is not None
    assert (label.id, label.path.name) == ("final-0000", "label.nii.gz")
    assert store.case("phantom_004").label is None


def test_saving_adds_versions_and_keeps_every_earlier_one(store: FolderStore, studies: Path, tmp_path: Path) -> None:
    before = snapshot(studies)
    first = keep(store, "phantom_000", drawn(store, tmp_path, "phantom_000", value=1), author="anna", client="x")
    second = keep(store, "phantom_000", drawn(store, tmp_path, "phantom_000", value=2))
    assert [label.id for label in store.case("phantom_000").labels] == ["final-0000", "final-0001", "final-0002"]
    assert store.case("phantom_000").label == second
    assert set(np.unique(read_label(first.path).voxels)) == {0, 1}
    assert before.items() <= snapshot(studies).items()
    entry = store.history("phantom_000")[0].entry
    assert (entry.case, entry.version, entry.author, entry.client) == ("phantom_000", 1, "anna", "x")
    assert entry.volume_ml.keys() == {"organ"}


def test_a_proposal_never_counts_as_a_label(store: FolderStore, tmp_path: Path) -> None:
    keep(store, "phantom_004", drawn(store, tmp_path), "original")
    assert store.case("phantom_004").label is None
    assert [label.tag for label in store.case("phantom_004").labels] == ["original"]


def test_an_empty_label_is_a_label(store: FolderStore, tmp_path: Path) -> None:
    saved = keep(store, "phantom_004", drawn(store, tmp_path, value=0))
    assert store.case("phantom_004").label == saved
    assert not read_label(saved.path).voxels.any()


@pytest.mark.parametrize("modality", ["ct", "pet", "mr_t1"])
def test_a_label_may_lie_on_any_of_the_cases_grids(store: FolderStore, tmp_path: Path, modality: str) -> None:
    saved = keep(store, "phantom_004", drawn(store, tmp_path, modality=modality))
    assert read_label(saved.path).grid.same_as(read_image(store.case("phantom_004").images[modality]).grid)


def test_slicers_own_numbers_are_mapped_by_name(store: FolderStore, tmp_path: Path) -> None:
    """Slicer exports its segments as 1..N in segment order and sends their names."""
    sent = drawn(store, tmp_path, value=1)
    saved = keep(store, "phantom_004", sent, segments=[Segment("Tumour", 1)])
    assert set(np.unique(read_label(saved.path).voxels)) == {0, 2}
    with pytest.raises(
        LabelError, match=r"label value 2: expected a segment that names it, got names of \{1: 'lesion'\}"
    ):
        keep(store, "phantom_004", drawn(store, tmp_path, value=2), segments=[Segment("lesion", 1)])
    saved = keep(store, "phantom_004", sent, segments=[Segment("lesion", 1), Segment("organ", 2)])
    assert set(np.unique(read_label(saved.path).voxels)) == {0, 2}
    with pytest.raises(LabelError, match=r"label value 1: expected .* one of \['organ', 'lesion'\], got 'bone'"):
        keep(store, "phantom_004", sent, segments=[Segment("bone", 1)])


def test_other_conventions_are_stored_as_the_tasks(store: FolderStore, tmp_path: Path) -> None:
    saved = keep(store, "phantom_004", drawn(store, tmp_path, value=4))
    assert set(np.unique(read_label(saved.path).voxels)) == {0, 2}


@pytest.mark.parametrize(
    ("case_id", "sent", "kept"),
    [
        ("A", (1, 2, 3), {1, 2, 3}),
        ("A", (1, 2, 4), {1, 2, 3}),
        ("A", (4, 4, 4), {3}),
        ("BraTS-GLI-00001-100", (1, 2, 3), {1, 2, 3}),
        ("BraTS-GLI-00001-100", (1, 2, 4), "expected label values of .*brats2023.*, got"),
        ("BraTS-PED-00001-000", (1, 2, 3), {1, 2, 3}),
        ("A", (3, 4, 1), "expected label values of .*, got"),
        ("A", (9, 0, 0), r"case A, label sent: expected label values of .*, got \[9\]"),
    ],
)
def test_values_that_are_sent_mean_one_thing(
    tmp_path: Path, case_id: str, sent: tuple[int, int, int], kept: set[int] | str
) -> None:
    brain(tmp_path / "studies" / case_id)
    store = FolderStore(tmp_path / "studies", shipped("brats_mr"))
    file = save(tmp_path / "sent.nii.gz", lesion(sent))
    if isinstance(kept, str):
        with pytest.raises(LabelError, match=kept):
            keep(store, case_id, file)
        assert store.case(case_id).label is None
    else:
        saved = keep(store, case_id, file)
        assert set(np.unique(read_label(saved.path).voxels)) - {0} == kept


def test_a_label_on_an_image_that_lies_at_two_places_is_refused_with_both(tmp_path: Path) -> None:
    case = brain(tmp_path / "studies/A")
    edit(case / "t1ce.nii.gz", (268, "f", (20.0,)))  # qoffset_x: Slicer sees it 40 mm away from where the sform says
    store = FolderStore(tmp_path / "studies", shipped("brats_mr"))
    assert store.resolve("A")[1] == "t1"  # what is opened is an image that lies at one place
    affine = oblique()
    affine[0, 3] = 20
    with pytest.raises(
        LabelError, match=r"corners up to 40\.0 mm apart.*\n  t1ce cannot be used: .*by the qform.*by the"
    ):
        keep(store, "A", save(tmp_path / "sent.nii.gz", lesion(), affine))


def moved(path: Path) -> Array:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3, 3] += 7
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    return np.asarray(affine)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: path.write_text('{"detail": "Internal Server Error"}'), ImageError, "expected a NIfTI file"),
        (lambda path: path.write_bytes(b""), ImageError, "got an empty file"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), ImageError, "damaged"),
        (moved, LabelError, "case phantom_004: expected the label where ct lies.*corners up to 12.1 mm apart"),
    ],
)
def test_what_is_no_label_of_the_case_is_refused_and_nothing_written(
    store: FolderStore,
    studies: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    error: type[Exception],
    message: str,
) -> None:
    sent = drawn(store, tmp_path)
    damage(sent)
    before = snapshot(studies)
    with pytest.raises(error, match=message):
        keep(store, "phantom_004", sent)
    assert snapshot(studies) == before


@pytest.mark.parametrize(("case_id", "tag"), [("../x", "final"), ("phantom_004", "../../x"), ("phantom_004", "a/b")])
def test_ids_and_tags_cannot_leave_the_store(
    store: FolderStore, studies: Path, tmp_path: Path, case_id: str, tag: str
) -> None:
    sent, before = drawn(store, tmp_path), snapshot(tmp_path)
    with pytest.raises((CaseError, LabelError), match="expected"):
        keep(store, case_id, sent, tag)
    with pytest.raises(CaseError):
        store.update_info("../x", {})
    assert snapshot(tmp_path) == before


def test_values_outside_the_task_are_refused(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"case phantom_004, label sent: expected label values of .*got \[9\]"):
        keep(store, "phantom_004", drawn(store, tmp_path, value=9))


def test_labels_saved_at_once_all_survive(store: FolderStore, tmp_path: Path) -> None:
    sent = drawn(store, tmp_path)
    threads = [
        threading.Thread(target=keep, args=(store, "phantom_004", sent), kwargs={"author": f"reader {number}"})
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = store.case("phantom_004").labels
    assert [label.version for label in labels] == list(range(1, 9))
    assert sorted(found.entry.author for found in store.history("phantom_004")) == [f"reader {n}" for n in range(8)]


def test_a_store_that_cannot_be_written_says_so(store: FolderStore, studies: Path, tmp_path: Path) -> None:
    (studies / "maml_labels").write_text("a file where the folder should be")
    with pytest.raises(StudiesError, match="nothing can be stored there"):
        keep(store, "phantom_004", drawn(store, tmp_path))


def test_notes_are_merged_and_new_files_are_seen_at_once(store: FolderStore, studies: Path) -> None:
    store.update_info("phantom_000", {"a": 1})
    store.update_info("phantom_000", {"b": 2})
    assert store.info("phantom_000") == {"a": 1, "b": 2}
    (studies / "new").mkdir()
    (studies / "new" / "ct.nii.gz").write_bytes((studies / "phantom_000" / "ct.nii.gz").read_bytes())
    assert store.case("new").images == {"ct": FileRef(studies / "new" / "ct.nii.gz")}


def test_the_store_of_a_datalist_lies_beside_it(studies: Path, spec: TaskSpec, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": {"ct": "studies/phantom_004/ct.nii.gz"}}]))
    store = FolderStore(path, spec)
    (case_id,) = [case.id for case in store.cases()]
    assert case_id == "phantom_004"
    saved = keep(store, case_id, drawn(store, tmp_path, case_id))
    assert saved.path.parent == tmp_path / "maml_labels" / case_id


def test_a_label_keeps_its_meaning_when_the_task_numbers_its_labels_anew(tmp_path: Path) -> None:
    spec = shipped("brats_mr")
    brain(tmp_path / "studies" / "A")
    store = FolderStore(tmp_path / "studies", spec)
    keep(store, "A", save(tmp_path / "a.nii.gz", lesion((1, 2, 3))))
    content = spec.model_dump(mode="json") | {"conventions": {}}
    cyst = content["labels"][0] | {"name": "cyst", "aliases": [], "value": 0}
    content["labels"] = [label | {"value": label["value"] + 1} for label in (cyst, *content["labels"])]
    anew = parse_task(json.dumps(content), "anew")
    found = read_case_label(FolderStore(tmp_path / "studies", anew).case("A"), anew)
    np.testing.assert_array_equal(found.voxels, lesion((2, 3, 4)))
    content["labels"] = [label | {"value": place} for place, label in enumerate(content["labels"][:3], start=1)]
    content["regions"] = []
    fewer = parse_task(json.dumps(content), "fewer")
    with pytest.raises(LabelError, match="'enhancing' is no label of the task"):
        read_case_label(FolderStore(tmp_path / "studies", fewer).case("A"), fewer)
