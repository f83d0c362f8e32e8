"""Labels in a real Orthanc: saved, refused, read back, imported."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.history import Decision, State, now
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ImageError, LabelError
from maml_app.imaging.dicom import stack
from maml_app.imaging.files import read_grid, read_label
from maml_app.imaging.rtstruct import StructureSet
from maml_app.imaging.seg import Provenance, write_seg
from maml_app.imaging.volume import Volume
from maml_app.phantom.dicom import make_study, truth_on
from maml_app.stores.dicomweb import DicomWebStore
from maml_app.stores.imports import import_labels
from tests.builders import keep
from tests.conftest import TOY
from tests.harness.command import called
from tests.imaging.objects import structure_set
from tests.integration.conftest import Archive, case_of, opened, sent


@pytest.mark.parametrize("kind", ["last label only", "empty", "three slices"])
@pytest.mark.parametrize("modality", ["ct", "pet", "mr_t1"])
def test_a_saved_label_is_a_new_version_and_comes_back_voxel_by_voxel(
    store: DicomWebStore, archive: Archive, tmp_path: Path, kind: str, modality: str
) -> None:
    case = case_of(store, archive, 4)
    grid = read_grid(case.images[modality])
    label = np.zeros(grid.shape, np.uint8)
    if kind == "last label only":
        label[2:5, 3:9, 1:] = 2
    elif kind == "three slices":
        label[1:4, 2:4, 4:7] = 1
        label[6, 7, 5] = 2
    before = len(case.labels)
    file = sent(tmp_path / "l.nrrd", label, grid.affine)
    stored = keep(store, archive.uid(4, modality), file, nothing_there=kind == "empty")
    again = opened(archive.url, store.spec, tmp_path / "another")  # as another server would see it, at once
    case = case_of(again, archive, 4)
    assert case.label is not None
    assert (case.label.id, case.label.path.name) == (stored.id, stored.path.name)
    assert len(case.labels) == before + 1
    back = read_label(case.label.local())
    assert back.grid.same_as(grid)
    np.testing.assert_array_equal(back.voxels, label)
    assert [one.version for one in case.labels] == list(range(1, before + 2))


def test_proposals_other_tasks_and_other_programs_are_no_labels(
    archive: Archive, spec: TaskSpec, tmp_path: Path
) -> None:
    store = opened(archive.url, spec, tmp_path / "cache")
    study, truth = make_study(spec, 8, 0, 24)
    archive.orthanc.add(study.instances())
    series = study.series["ct"]
    order = stack(series)
    label = truth_on(truth, order.grid)
    other = spec.model_copy(update={"name": "other"})
    foreign = write_seg(label, order, series, spec, Provenance("SEMIAUTOMATIC", 1))
    foreign.ManufacturerModelName = "Another program"
    predicted = write_seg(label, order, series, spec, Provenance("AUTOMATIC", 1))
    predicted.ManufacturerModelName = "Another program"
    archive.orthanc.add([write_seg(label, order, series, other, Provenance("MANUAL", 1)), foreign, predicted])
    case = store.case(str(series[0].StudyInstanceUID))
    assert (case.labels, case.label) == ((), None)

    grid = read_grid(case.images["ct"])
    proposal = keep(store, case.id, sent(tmp_path / "l.nii.gz", label, grid.affine), "original")
    case = store.case(case.id)
    assert [one.id for one in case.labels] == [proposal.id]
    assert re.fullmatch(r"original-0001-[0-9a-f]{6}", proposal.id)
    assert case.label is None

    told = opened(archive.url, spec, tmp_path / "cache", foreign_segs="use")
    case = told.case(case.id)
    assert [one.tag for one in case.labels] == ["final", "original", "original"]
    assert case.label is not None
    np.testing.assert_array_equal(read_label(case.label.local()).voxels, label)


def test_labels_that_do_not_fit_are_refused_and_nothing_is_stored(
    store: DicomWebStore, archive: Archive, tmp_path: Path
) -> None:
    case = case_of(store, archive, 3)
    grid = read_grid(case.images["pet"])
    label = np.zeros(grid.shape, np.uint8)
    listed = [str(row.SeriesInstanceUID) for row in store.pacs.series(case.study)]
    wrong = [
        (label[1:], "final", "label on the grid of one of its images"),
        (label + 9, "final", r"label values .*got \[9\]"),
        (label, "draft", "tag of 'final' or 'original' in a DICOM archive, got 'draft'"),
    ]
    for voxels, tag, message in wrong:
        with pytest.raises(LabelError, match=message):
            keep(store, case.id, sent(tmp_path / "l.nii.gz", voxels, grid.affine), tag)
    (tmp_path / "l.nii.gz").write_bytes(b'{"detail": "an error body"}')
    with pytest.raises(ImageError):
        keep(store, case.id, tmp_path / "l.nii.gz")
    assert [str(row.SeriesInstanceUID) for row in store.pacs.series(case.study)] == listed


def test_segs_that_cannot_be_read_are_told_and_not_kept(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    store = opened(archive.url, spec, tmp_path / "cache", foreign_segs="use")
    study, _ = make_study(spec, 9, 0, 24)
    archive.orthanc.add(study.instances())
    series = study.series["ct"]
    order = stack(series)
    label = np.zeros(order.grid.shape, np.uint8)
    label[2:5, 2:5, 2:5] = 1
    seg = write_seg(label, order, series, spec, Provenance("MANUAL", 1))
    seg.ManufacturerModelName, seg.FrameOfReferenceUID = "Another program", "1.2.3.4"
    archive.orthanc.add([seg])
    case = store.case(str(series[0].StudyInstanceUID))
    assert case.label is not None
    with pytest.raises(LabelError, match=r"expected FrameOfReferenceUID .*, got 1\.2\.3\.4"):
        case.label.local()
    assert not list(store.cache.folder.glob("labels/*"))


def test_contours_and_foreign_segs_are_imported_on_request(
    store: DicomWebStore, archive: Archive, spec: TaskSpec, tmp_path: Path
) -> None:
    study, _ = make_study(spec, 13, 0, 24)
    archive.orthanc.add(study.instances())
    series = study.series["ct"]
    grid = stack(series).grid
    square = [(3.4, 4.4), (8.6, 4.4), (8.6, 9.6), (3.4, 9.6)]
    contours = structure_set(grid, {"GTV 1": [(square, 2), (square, 3)]})
    reference = contours.ReferencedFrameOfReferenceSequence[0]
    reference.FrameOfReferenceUID = series[0].FrameOfReferenceUID
    reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = series[0].SeriesInstanceUID
    folder = tmp_path / "contours"
    folder.mkdir()
    (folder / "notes.txt").write_text("no DICOM")
    _complete(contours, series[0])
    contours.save_as(folder / "rs.dcm", write_like_original=False)
    uid = str(series[0].StudyInstanceUID)

    def result(**more: bool) -> str:
        found = list(import_labels(store, folder, {"gtv*": "lesion"}, **more))
        return next(f"{one.stored}: {one.reason}" for one in found if one.case.startswith(uid))

    assert re.fullmatch(r"final-0001-\w{6}: RTSTRUCT on ct", result())
    assert re.fullmatch(r": has final-0001-\w{6} already", result())
    assert re.fullmatch(r"final-0002-\w{6}: RTSTRUCT on ct", result(again=True))
    case = store.case(uid)
    assert case.label is not None
    expected = np.zeros(grid.shape, np.uint8)
    expected[4:9, 5:10, 2:4] = 2
    np.testing.assert_array_equal(read_label(case.label.local()).voxels, expected)
    # in the archive, another program's SEG
    study, truth = make_study(spec, 14, 0, 24)
    order = stack(study.series["pet"])
    seg = write_seg(truth_on(truth, order.grid), order, study.series["pet"], spec, Provenance("MANUAL", 1))
    seg.ManufacturerModelName = "Another program"
    archive.orthanc.add([*study.instances(), seg])
    uid = str(seg.StudyInstanceUID)
    found = [one for one in import_labels(store, None, {}) if one.case.startswith(uid)]
    assert [(one.stored[:10], one.reason) for one in found] == [("final-0001", "SEG on pet")]


def _complete(file: Dataset, image: Dataset) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    file.SOPInstanceUID, file.SeriesInstanceUID = generate_uid(), generate_uid()
    file.StudyInstanceUID, file.PatientID = image.StudyInstanceUID, image.PatientID
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    file.is_little_endian, file.is_implicit_VR = True, False


def run(cache: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """The command line, as a user calls it."""
    monkeypatch.setenv("MAML_CACHE", str(cache))
    code, printed = called(*arguments)
    assert "Traceback" not in printed
    return code, " ".join(printed.split())  # lines are wrapped at the terminal's width


def test_check_and_import_labels_on_the_command_line(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task.yaml").write_text(TOY)
    task = ("--task", str(tmp_path / "task.yaml"), "--studies")
    code, text = run(tmp_path, monkeypatch, "check", *task, archive.url, "--no-read")
    assert code == 0
    assert "localizer" in text
    assert "ct 20 CT #2 ct, 23 images: is CT" in text
    assert "for ct, but #2 ct scores 20" in text
    assert "label SEG" in text
    assert "assign.json" in text
    code, text = run(tmp_path, monkeypatch, "import-labels", *task, str(tmp_path))
    assert (code, "expected a DICOMweb address" in text) == (2, True)
    code, text = run(tmp_path, monkeypatch, "import-labels", *task, archive.url, "--from", str(tmp_path / "none"))
    assert (code, "expected a folder of DICOM files, got none" in text) == (2, True)
    code, text = run(tmp_path, monkeypatch, "import-labels", *task, archive.url, "--region", "x=bone")
    assert (code, "expected NAME=LABEL with a label of ['organ', 'lesion']" in text) == (2, True)
    code, text = run(tmp_path, monkeypatch, "check", *task, "http://127.0.0.1:9/dicom-web")
    assert (code, "it cannot be reached" in text) == (2, True)


def test_labels_leave_the_archive_as_seg_and_as_contours(
    store: DicomWebStore, archive: Archive, tmp_path: Path
) -> None:
    case = case_of(store, archive, 4)
    grid = read_grid(case.images["pet"])
    label = np.zeros(grid.shape, np.uint8)
    label[2:8, 3:9, 2:5] = 2
    label[4, 5, 3] = 0  # a hole
    label[1, 1, 6] = 1
    stored = keep(store, archive.uid(4, "pet"), sent(tmp_path / "l.nii.gz", label, grid.affine), author="anna")
    for kind in ("seg", "rtstruct"):
        out = tmp_path / kind
        ask = ["labels", "export", str(out), "--studies", archive.url, "--task", str(_task(tmp_path)), "--to", kind]
        answer = CliRunner().invoke(app, ask, env={"MAML_CACHE": str(tmp_path / "another")})
        assert answer.exit_code == 0, (answer.output, answer.exception)
        file = pydicom.dcmread(out / f"{case.id}-{stored.id}.dcm")
        assert file.StudyInstanceUID == archive.study_uid(4)
        if kind == "seg":
            assert str(file.ContentCreatorName) == "anna"
        else:
            structures = StructureSet(file)
            for value, name in store.spec.label_values.items():
                mask, _ = structures.mask(name, grid)
                np.testing.assert_array_equal(mask, label == value)
    # a copy of all as NIfTI, without a UID in a name
    ask = ["labels", "export", str(tmp_path / "bids"), "--studies", archive.url, "--task", str(_task(tmp_path))]
    answer = CliRunner().invoke(app, [*ask, "--to", "bids"], env={"MAML_CACHE": str(tmp_path / "another")})
    assert answer.exit_code == 0, (answer.output, answer.exception)
    names = [path.name for path in (tmp_path / "bids").iterdir() if path.name.startswith("sub-")]
    assert names
    assert all(re.fullmatch(r"sub-case\d{4}", name) for name in names)


def _task(folder: Path) -> Path:
    (folder / "task.yaml").write_text(TOY)
    return folder / "task.yaml"


def test_what_an_archive_tells_of_its_labels(store: DicomWebStore, archive: Archive, tmp_path: Path) -> None:
    case = case_of(store, archive, 0)
    grid = read_grid(case.images["ct"])
    label = np.zeros(grid.shape, np.uint8)
    label[2:5, 3:4, 1:2] = 2
    file = sent(tmp_path / "l.nii.gz", label, grid.affine)
    keep(store, archive.uid(0, "ct"), file, author="Dr. Ünal^A", client="OHIF", comment="the rim", seconds=33.0)
    again = opened(archive.url, store.spec, tmp_path / "another")  # as another server would see it, from the SEGs alone
    history = again.history(case.id)
    entry = history[-1].entry
    assert (entry.author, entry.client, entry.comment, entry.seconds) == ("Dr. Ünal^A", "OHIF", "the rim", 33.0)
    assert entry.content == Volume(label, grid.affine).content
    assert entry.image == "ct"
    assert entry.volume_ml.keys() == {"lesion"}
    assert history == store.history(case.id)
    again.decide(Decision(case=case.id, label=entry.label, state=State.REJECTED, by="rita", at=now(), comment="no"))
    newest = again.case(case.id).label
    assert newest is None or newest.id != entry.label
    assert again.history(case.id)[-1].state == State.REJECTED
