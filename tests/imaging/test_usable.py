"""What can be used of a case: headers, values, places and labels, a table a kind; and that everybody asks the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from maml_app.cases.case import FileRef
from maml_app.cases.spec import Modality, TaskSpec
from maml_app.errors import GridError, ImageError, LabelError
from maml_app.imaging import reading
from maml_app.imaging.check import inspect
from maml_app.imaging.files import read_grid, read_image
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.plausible import implausible
from maml_app.imaging.preprocess import prepare
from maml_app.imaging.reading import readings
from maml_app.imaging.volume import Array, Volume
from maml_app.stores.folder import FolderStore
from tests.imaging.shapes import oblique

GRID = oblique((9, 8, 7), (1.1, 1.9, 3.2), seed=5)


def nifti(path: Path, change: Callable[[Any], None], codes: tuple[int, int] = (1, 1)) -> FileRef:
    """An oblique, anisotropic image whose header is changed before it is written."""
    voxels = np.arange(np.prod(GRID.shape), dtype=np.float32).reshape(GRID.shape)
    image = nib.Nifti1Image(voxels, GRID.affine)
    image.set_qform(GRID.affine, code=codes[0])
    image.set_sform(GRID.affine, code=codes[1])
    change(image)
    nib.save(image, path)
    return FileRef(path)


def shifted(affine: Array, mm: float) -> Array:
    moved = affine.copy()
    moved[0, 3] += mm
    return moved


READ: list[tuple[str, Callable[[Any], None], tuple[int, int]]] = [
    ("as written", lambda image: None, (1, 1)),
    ("a qform alone", lambda image: None, (1, 0)),
    ("an sform alone", lambda image: None, (0, 2)),
    ("other codes", lambda image: None, (2, 4)),
    ("a qform that is a tenth of a voxel off", lambda i: i.set_qform(shifted(GRID.affine, 0.1), 1), (1, 1)),
    ("the unit unknown", lambda image: image.header.set_xyzt_units(0, 0), (1, 1)),
    ("millimetres and seconds", lambda image: image.header.set_xyzt_units("mm", "sec"), (1, 1)),
]


@pytest.mark.parametrize(("change", "codes"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_headers_that_place_an_image_once_are_read(
    tmp_path: Path, change: Callable[[Any], None], codes: tuple[int, int]
) -> None:
    np.testing.assert_allclose(read_grid(nifti(tmp_path / "i.nii", change, codes)).affine, GRID.affine, atol=1e-4)


REFUSED: list[tuple[str, Callable[[Any], None], tuple[int, int], str]] = [
    ("40 mm between", lambda i: i.set_qform(shifted(GRID.affine, 40), 1), (1, 1), "corners up to 40.0 mm apart"),
    ("an sform of ones", lambda i: i.set_sform(np.eye(4), 2), (1, 1), "expected qform and sform to agree"),
    ("neither", lambda image: None, (0, 0), "expected a qform or sform that places the image, got neither"),
    (
        "micrometres",
        lambda image: image.header.set_xyzt_units("micron"),
        (1, 1),
        "expected millimetres, got the unit",
    ),
    ("metres", lambda image: image.header.set_xyzt_units("meter"), (1, 1), "expected millimetres, got the unit"),
    ("singular", lambda i: i.set_sform(np.diag([0, 1, 1, 1.0]), 1), (0, 1), "expected an affine that can be inverted"),
    ("4000 mm", lambda i: i.set_sform(np.diag([2000, 1, 1, 1.0]), 1), (0, 1), "expected"),
    ("a micrometre", lambda i: i.set_sform(np.diag([1e-3, 1e-3, 1e-3, 1.0]), 1), (0, 1), "expected"),
]


@pytest.mark.parametrize(("change", "codes", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_headers_that_do_not_or_say_it_twice_are_refused(
    tmp_path: Path, change: Callable[[Any], None], codes: tuple[int, int], message: str
) -> None:
    with pytest.raises(GridError, match=f"i.nii: .*{message}"):
        read_grid(nifti(tmp_path / "i.nii", change, codes))


def test_an_affine_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "i.nii", lambda image: None, (0, 1)).path
    content = bytearray(path.read_bytes())
    content[280:296] = np.full(4, np.nan, "<f4").tobytes()  # srow_x
    path.write_bytes(content)
    with pytest.raises((GridError, ImageError), match=r"i\.nii: expected"):
        read_grid(FileRef(path))


def test_a_damaged_file_is_never_read_as_a_good_one(tmp_path: Path) -> None:
    """Bytes of packed voxels that were changed: gzip gives other voxels, and only its checksum tells."""
    content = bytearray((nifti(tmp_path / "i.nii.gz", lambda image: None)).path.read_bytes())
    refused = 0
    for place in range(len(content) // 2, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        (tmp_path / "d.nii.gz").write_bytes(damaged)
        try:
            found = read_image(FileRef(tmp_path / "d.nii.gz"))
        except (ImageError, GridError):
            refused += 1
        else:  # a byte that means nothing, as of the file's date
            np.testing.assert_array_equal(found.voxels, read_image(FileRef(tmp_path / "i.nii.gz")).voxels)
    assert refused > 10


def of(kind: str) -> Modality:
    window = (-160.0, 240.0) if kind == "CT" else None
    return Modality.model_validate({"name": "m", "kind": kind, "files": ["m"], "window": window})


def body(low: float, high: float, air: float) -> Array:
    """A cube of tissue in air, each with a little noise."""
    rng = np.random.default_rng(0)
    values = np.full((20, 20, 20), air) + rng.normal(0, abs(air) / 200 + 1e-3, (20, 20, 20))
    values[5:15, 5:15, 5:15] = rng.uniform(low, high, (10, 10, 10))
    return np.asarray(values, dtype=np.float32)


def filled(values: Array, padding: float) -> Array:
    """Corners of another value, as outside a scanner's circle."""
    values[:5, :5] = values[15:, 15:] = padding
    return values


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        pytest.param("CT", body(-50, 90, -1000), "", id="a CT"),
        pytest.param("CT", body(-120, 90, -110), "", id="a CT cut to the body"),
        pytest.param("CT", body(80, 200, 2), "expected CT in Hounsfield units", id="a CT of 0 to 255"),
        pytest.param("CT", body(0.3, 0.7, 0.01), "expected CT in Hounsfield units", id="a CT of 0 to 1"),
        pytest.param("CT", body(-50, 80, -1000) % 65536, "seems to have wrapped round", id="a CT in unsigned numbers"),
        pytest.param(
            "CT", (body(-50, 80, -1020) + 1000) % 65536 - 1000, "seems to have wrapped round", id="air that wrapped"
        ),
        pytest.param("CT", body(950, 1100, 30), "expected CT in Hounsfield units", id="a CT without its intercept"),
        pytest.param("CT", filled(body(-50, 90, -1000), -2000), "", id="a CT that is filled in"),
        pytest.param("CT", filled(body(950, 1100, 30), -2000), "without air or fat", id="filled in, no intercept"),
        pytest.param("PET", body(0.5, 12, 0.01), "", id="a PET in SUV"),
        pytest.param("PET", body(50, 1200, 1), "", id="a PET in hundredths of SUV"),
        pytest.param("PET", body(3000, 50000, 10), "convert Bq/ml", id="a PET in Bq/ml"),
        pytest.param("PET", body(0.5, 12, -3), "never negative", id="a PET below zero"),
        pytest.param("PET", body(0.05, 0.9, 0.001), "scaled to 0..1", id="a PET of 0 to 1"),
        pytest.param("MR", body(200, 900, 5), "", id="an MR"),
        pytest.param("MR", np.zeros((9, 9, 9), np.float32), "every voxel is 0", id="zeros"),
    ],
)
def test_values_are_what_the_modality_says(kind: str, values: Array, message: str) -> None:
    found = implausible(values, of(kind))
    assert (message in found) if message else found == ""


def rewrite(path: Path, change: Callable[[Array], Array], affine: Callable[[Array], Array] = lambda a: a) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), affine(image.affine)), path)


def _with(value: float) -> Callable[[Array], Array]:
    def change(voxels: Array) -> Array:
        changed = voxels.astype(np.float32)
        changed[3, 3, 3] = value
        return changed

    return change


IMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("gone", lambda path: path.unlink(), "got none that can be read"),
    ("empty", lambda path: path.write_bytes(b""), "got an empty file"),
    ("text", lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "expected a NIfTI file"),
    ("cut", lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated or damaged"),
    ("NaN", lambda path: rewrite(path, _with(np.nan)), "1 that are NaN or infinite"),
    ("infinite", lambda path: rewrite(path, _with(np.inf)), "1 that are NaN or infinite"),
    ("constant", lambda path: rewrite(path, lambda voxels: voxels * 0 + 7), "every voxel is 7"),
    ("elsewhere", lambda path: rewrite(path, lambda v: v, lambda a: shifted(a, 500)), "does not overlap"),
    ("mostly elsewhere", lambda path: rewrite(path, lambda v: v, lambda a: shifted(a, 90)), "of it lies where"),
]


@pytest.mark.parametrize(("damage", "reason"), [row[1:] for row in IMAGES], ids=[row[0] for row in IMAGES])
def test_a_modality_that_cannot_be_used_costs_itself_only(
    studies: Path, spec: TaskSpec, damage: Callable[[Path], object], reason: str
) -> None:
    """Preparation, by which training, evaluation and inference see a case, leaves out what `check` names."""
    store = FolderStore(studies, spec)
    case = store.case("phantom_001")
    damage(case.images["pet"].path)
    prepared = prepare(case, spec)
    assert prepared.used == ("ct", "mr_t1")
    assert prepared.presence.tolist() == [True, False, True]
    assert reason in prepared.left_out["pet"]
    finding = inspect(case, spec)
    assert any(reason in problem for problem in finding.problems)
    assert "pet" in finding.left_out


def test_the_next_image_is_read_while_one_is_worked_on_and_no_further(
    studies: Path, spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Queue[str] = Queue()

    def told(ref: FileRef) -> Volume:
        asked.put(ref.path.name)
        return read_image(ref)

    monkeypatch.setattr(reading, "read_image", told)
    case = FolderStore(studies, spec).cases()[0]
    coming = readings(case, spec)
    order = [next(coming).modality.name]
    names = [case.images[name].path.name for name in spec.preference if name in case.images]
    assert len(names) == 3
    assert [asked.get(timeout=60) for _ in range(2)] == names[:2]
    with pytest.raises(Empty):
        asked.get(timeout=0.2)  # the third waits until the second is taken
    order += [known.modality.name for known in coming]
    assert asked.get(timeout=60) == names[2]
    assert order == [name for name in spec.preference if name in case.images]


def test_hot_voxels_do_not_change_what_an_mr_looks_like(studies: Path, spec: TaskSpec) -> None:
    case = FolderStore(studies, spec).case("phantom_001")
    before = prepare(case, spec)

    def hot(voxels: Array) -> Array:
        changed = voxels.astype(np.float32)
        changed[2, 2, 2:5] = 1e6
        return changed

    rewrite(case.images["mr_t1"].path, hot)
    after = prepare(case, spec)
    assert float((before.images[2] - after.images[2]).abs().median()) < 0.02


MIRROR = np.diag([-1.0, 1, 1, 1])
TROUBLED: list[tuple[str, Callable[[Path], object], str]] = [
    ("probabilities", lambda path: rewrite(path, lambda v: v * 0.3), "expected whole numbers from 0 to 255"),
    ("negative", lambda path: rewrite(path, lambda v: v.astype(np.int16) - 1), "expected whole numbers from 0 to 255"),
    ("unknown value", lambda path: rewrite(path, lambda v: v * 7), "expected label values|no numbering"),
    ("moved", lambda path: rewrite(path, lambda v: v, lambda a: shifted(a, 9)), "corners up to 9.0 mm apart"),
    (
        "mirrored",
        lambda path: rewrite(path, lambda v: v, lambda a: a @ np.diag([-1.0, 1, 1, 1])),
        "elsewhere|the grid",
    ),
    ("cropped", lambda path: rewrite(path, lambda v: v[1:]), "expected a label on the grid of one of its images"),
]


@pytest.mark.parametrize(("damage", "message"), [row[1:] for row in TROUBLED], ids=[row[0] for row in TROUBLED])
def test_a_label_that_cannot_be_used_is_refused_for_all(
    studies: Path, spec: TaskSpec, damage: Callable[[Path], object], message: str
) -> None:
    case = FolderStore(studies, spec).case("phantom_001")
    assert case.label is not None
    damage(case.label.path)
    with pytest.raises(LabelError, match=message):
        read_case_label(case, spec)
    finding = inspect(case, spec)
    assert finding.refused
    assert finding.label == "unusable"


def test_a_label_in_another_order_of_the_same_voxels_is_its_own(studies: Path, spec: TaskSpec) -> None:
    """As a program that writes every image in RAS does: no alarm, and the same places."""
    case = FolderStore(studies, spec).case("phantom_001")
    assert case.label is not None
    before = read_case_label(case, spec)
    image = nib.load(case.label.path)
    nib.save(nib.as_closest_canonical(image), case.label.path)
    after = read_case_label(case, spec)
    places = [
        np.sort(np.argwhere(found.voxels == 2) @ found.affine[:3, :3].T + found.affine[:3, 3], axis=0)
        for found in (before, after)
    ]
    np.testing.assert_allclose(places[0], places[1], atol=1e-3)
    assert inspect(case, spec).problems == ()
