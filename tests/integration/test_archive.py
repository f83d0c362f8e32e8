"""Cases and labels in a real Orthanc."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from maml_app.cases.case import Case
from maml_app.cases.recipe import Network
from maml_app.cases.series import Verdict
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ArchiveError, CaseError, ImageError, LabelError
from maml_app.imaging.dicom import stack
from maml_app.imaging.files import read_grid, read_image, read_label, write_label
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.phantom_dicom import make_study, truth_on, write_series
from maml_app.imaging.preprocess import read_case_label
from maml_app.imaging.seg import write_seg
from maml_app.imaging.volume import Array
from maml_app.learning.predict import Model, segment
from maml_app.learning.train import train
from maml_app.stores.choice import choose_task, open_studies
from maml_app.stores.dicomweb import DicomWebStore
from maml_app.stores.imports import import_labels
from scripts.orthanc import Orthanc
from scripts.server import ROOT
from tests.conftest import TOY, real
from tests.imaging.test_rtstruct import structure_set
from tests.integration.conftest import Archive


def opened(url: str, spec: TaskSpec, cache: Path, **options: str) -> DicomWebStore:
    store = open_studies(url, spec, {"cache": str(cache), **options})
    assert isinstance(store, DicomWebStore)
    return store


@pytest.fixture
def store(archive: Archive, spec: TaskSpec, tmp_path: Path) -> DicomWebStore:
    return opened(archive.url, spec, tmp_path / "cache")


def case_of(store: DicomWebStore, archive: Archive, study: int) -> Case:
    return store.case(archive.study_uid(study))


def sent(path: Path, label: Array, affine: Array) -> Path:
    write_label(path, label, affine)
    return path


def test_series_are_found_assigned_and_explained(store: DicomWebStore, archive: Archive) -> None:
    examinations = store.examinations()
    assert len(examinations) == 5
    by_study = {one.study: one for one in examinations}
    for number in range(5):
        one = by_study[archive.study_uid(number)]
        expected = {name: archive.uid(number, name) for name in archive.studies[number][0].series}
        assert {name: series.uid for name, series in one.series.items()} == expected
        verdicts: dict[str, Verdict] = {verdict.series.uid: verdict for verdict in one.verdicts}
        localizer = verdicts[str(archive.studies[number][0].extra[0][0].SeriesInstanceUID)]
        assert (localizer.modality, localizer.reasons) == (None, ("localizer",))
        assert all(verdict.reasons for verdict in one.verdicts)
    copied = archive.studies[1][0].extra[1][0].SeriesInstanceUID
    lost = next(v for v in by_study[archive.study_uid(1)].verdicts if v.series.uid == copied)
    assert lost.modality is None
    assert "for ct, but #2 ct scores" in lost.reasons[0]


def test_cases_are_listed_without_a_download_and_read_on_use(store: DicomWebStore, archive: Archive) -> None:
    cases = store.cases()
    assert [bool(case.label) for case in sorted(cases, key=lambda case: case.patient)] == [True] * 3 + [False] * 2
    assert sorted(case.patient for case in cases) == [f"phantom_00{number}-3" for number in range(5)]
    assert case_of(store, archive, 3).missing(store.spec.modality_names) == ("ct",)
    assert not list(store.cache.folder.glob("images/*"))
    case = case_of(store, archive, 1)
    for name, ref in case.images.items():
        truth = archive.studies[1][1].images[name]
        found = read_image(ref)
        assert found.grid.same_as(truth.grid)
        np.testing.assert_allclose(found.voxels, truth.voxels, atol=0.51 if name != "pet" else 1e-3)
    label = read_case_label(case, store.spec)
    np.testing.assert_array_equal(label.voxels, truth_on(archive.studies[1][1], label.grid))


def test_any_series_of_a_case_may_be_asked_for(store: DicomWebStore, archive: Archive) -> None:
    case = case_of(store, archive, 1)
    for name in store.spec.modality_names:
        assert store.resolve(archive.uid(1, name)) == (case, name)
        assert store.resolve(f"{case.id}@{name}") == (case, name)
    assert store.resolve(case.id) == (case, "ct")
    assert store.resolve(case.study) == (case, "ct")
    copied = str(archive.studies[1][0].extra[1][0].SeriesInstanceUID)
    found, asked = store.resolve(copied)
    assert (found, asked) == (case, copied)
    assert read_grid(found.grids[asked]).same_as(read_grid(case.images["ct"]))
    slices = store.slices(found, asked)
    planes = {f"{image.SOPInstanceUID}/frames/1" for image in archive.studies[1][0].extra[1]}
    assert set(slices) == planes
    localizer = str(archive.studies[1][0].extra[0][0].SeriesInstanceUID)
    with pytest.raises(CaseError, match=f"series {localizer} cannot be segmented: localizer"):
        store.resolve(localizer)
    for unknown in ("1.2.3", "../x", "", f"{case.id}@xray"):
        with pytest.raises(CaseError):
            store.resolve(unknown)


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
    stored = store.save_label(archive.uid(4, modality), sent(tmp_path / "l.nrrd", label, grid.affine), "final", {})
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
    foreign = write_seg(label, order, series, spec, "SEMIAUTOMATIC", 1)
    foreign.ManufacturerModelName = "Another program"
    predicted = write_seg(label, order, series, spec, "AUTOMATIC", 1)
    predicted.ManufacturerModelName = "Another program"
    archive.orthanc.add([write_seg(label, order, series, other, "MANUAL", 1), foreign, predicted])
    case = store.case(str(series[0].StudyInstanceUID))
    assert (case.labels, case.label) == ((), None)

    grid = read_grid(case.images["ct"])
    proposal = store.save_label(case.id, sent(tmp_path / "l.nii.gz", label, grid.affine), "original", {})
    case = store.case(case.id)
    assert [one.id for one in case.labels] == [proposal.id] == ["original-0001"]
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
            store.save_label(case.id, sent(tmp_path / "l.nii.gz", voxels, grid.affine), tag, {})
    (tmp_path / "l.nii.gz").write_bytes(b'{"detail": "an error body"}')
    with pytest.raises(ImageError):
        store.save_label(case.id, tmp_path / "l.nii.gz", "final", {})
    assert [str(row.SeriesInstanceUID) for row in store.pacs.series(case.study)] == listed


def test_segs_that_cannot_be_read_are_told_and_not_kept(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    store = opened(archive.url, spec, tmp_path / "cache", foreign_segs="use")
    study, _ = make_study(spec, 9, 0, 24)
    archive.orthanc.add(study.instances())
    series = study.series["ct"]
    order = stack(series)
    label = np.zeros(order.grid.shape, np.uint8)
    label[2:5, 2:5, 2:5] = 1
    seg = write_seg(label, order, series, spec, "MANUAL", 1)
    seg.ManufacturerModelName, seg.FrameOfReferenceUID = "Another program", "1.2.3.4"
    archive.orthanc.add([seg])
    case = store.case(str(series[0].StudyInstanceUID))
    assert case.label is not None
    with pytest.raises(LabelError, match=r"expected FrameOfReferenceUID .*, got 1\.2\.3\.4"):
        case.label.local()
    assert not list(store.cache.folder.glob("labels/*"))


def test_what_is_wrong_with_a_series_is_told_when_it_is_read(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    store = opened(archive.url, spec, tmp_path / "cache")
    study, _ = make_study(spec, 10, 0, 24)
    gap = study.series["ct"].pop(3)
    archive.orthanc.add(study.instances())
    case = store.case(str(gap.StudyInstanceUID))
    with pytest.raises(ImageError, match=r"series .* \(#2 ct\): expected a slice every .* 1 missing"):
        read_image(case.images["ct"])
    # the slice arrives: the same server takes the whole series
    archive.orthanc.add([gap])
    assert read_grid(store.case(case.id).images["ct"]).shape[2] == len(study.series["ct"]) + 1


def test_an_interrupted_download_is_never_taken_for_a_series(
    archive: Archive, spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(archive.url, spec, tmp_path / "cache")
    case = case_of(store, archive, 0)
    whole = store.pacs.images
    monkeypatch.setattr(store.pacs, "images", lambda study, series: whole(study, series)[:-1])
    with pytest.raises(ArchiveError, match=r"expected 23 images, got 22: it was cut short"):
        read_image(case.images["ct"])
    monkeypatch.undo()
    assert read_image(case.images["ct"]).voxels.shape[2] == 23
    assert [path.suffix for path in sorted(store.cache.folder.glob("images/*"))] == [".json", ".nii"]


def test_a_series_deleted_after_it_was_listed_is_told(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    store = opened(archive.url, spec, tmp_path / "cache")
    study, _ = make_study(spec, 11, 0, 24)
    archive.orthanc.add(study.instances())
    pet = str(study.series["pet"][0].SeriesInstanceUID)
    case = store.case(str(study.series["pet"][0].StudyInstanceUID))
    archive.orthanc.delete_series(pet)
    with pytest.raises(ArchiveError, match=f"downloading series {pet} failed: the series is no longer there"):
        read_image(case.images["pet"])
    assert set(store.case(case.id).images) == {"ct", "mr_t1"}
    with pytest.raises(CaseError, match="unknown id"):
        store.resolve(pet)


def test_series_set_by_hand(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    copied = str(archive.studies[1][0].extra[1][0].SeriesInstanceUID)
    store = opened(archive.url, spec, tmp_path, assign=f"{copied}=ct,{archive.uid(1, 'pet')}=none")
    case = case_of(store, archive, 1)
    assert case.series == {"ct": copied, "mr_t1": archive.uid(1, "mr_t1")}


def test_a_study_in_two_frames_of_reference_is_two_cases(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    store = opened(archive.url, spec, tmp_path / "cache")
    study, case = make_study(spec, 12, 0, 24)
    moved = copy.deepcopy(study.series["pet"])
    frame, series = generate_uid(), generate_uid()
    for image in moved:
        image.FrameOfReferenceUID, image.SeriesInstanceUID = frame, series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    archive.orthanc.add([*study.instances(), *moved])
    uid = str(moved[0].StudyInstanceUID)
    cases = [one for one in store.cases() if one.study == uid]
    assert sorted(sorted(one.images) for one in cases) == [["ct", "mr_t1", "pet"], ["pet"]]
    assert len({one.patient_id for one in cases}) == 1
    with pytest.raises(CaseError, match="holds several cases, name one"):
        store.case(uid)
    # a study that holds no modality of the task is no case, and does not hide the others
    blank = write_series(case.images["ct"], spec.modalities[0], "none", 1, "scout")
    archive.orthanc.add(blank)
    assert str(blank[0].StudyInstanceUID) not in {one.study for one in store.cases()}
    with pytest.raises(CaseError, match=r"localizer; its study has no series that is one of ct, pet, mr_t1"):
        store.resolve(str(blank[0].SeriesInstanceUID))


def test_the_cache_stays_below_its_limit(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    store = opened(archive.url, spec, tmp_path / "cache", cache_gb="0.00005")
    case = case_of(store, archive, 0)
    first = case.images["ct"].local()
    os.utime(first, (0, 0))  # last used long ago
    kept = case.images["mr_t1"].local()
    case.images["pet"].local()
    assert not first.exists()
    assert kept.exists()  # used within the hour
    assert read_image(case.images["ct"]).voxels.shape[2] == 23  # fetched again


def test_contours_and_foreign_segs_are_imported_on_request(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    store = opened(archive.url, spec, tmp_path / "cache")
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

    assert result() == "final-0001: RTSTRUCT on ct"
    assert result() == ": has final-0001 already"
    assert result(again=True) == "final-0002: RTSTRUCT on ct"
    case = store.case(uid)
    assert case.label is not None
    expected = np.zeros(grid.shape, np.uint8)
    expected[4:9, 5:10, 2:4] = 2
    np.testing.assert_array_equal(read_label(case.label.local()).voxels, expected)
    # in the archive, another program's SEG
    study, truth = make_study(spec, 14, 0, 24)
    order = stack(study.series["pet"])
    seg = write_seg(truth_on(truth, order.grid), order, study.series["pet"], spec, "MANUAL", 1)
    seg.ManufacturerModelName = "Another program"
    archive.orthanc.add([*study.instances(), seg])
    uid = str(seg.StudyInstanceUID)
    found = [one for one in import_labels(store, None, {}) if one.case.startswith(uid)]
    assert [(one.stored, one.reason) for one in found] == [("final-0001", "SEG on pet")]


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


def test_user_and_password(spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = make_study(spec, 3, 0, 24)
    with Orthanc(tmp_path / "orthanc", users={"reader": "secret"}) as orthanc:
        orthanc.add(study.instances())
        with pytest.raises(ArchiveError, match=r"refused the user \(401\); set MONAI_LABEL_DICOMWEB_USERNAME"):
            opened(orthanc.dicomweb, spec, tmp_path / "cache").cases()
        monkeypatch.setenv("MONAI_LABEL_DICOMWEB_USERNAME", "reader")
        monkeypatch.setenv("MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
        store = opened(orthanc.dicomweb, spec, tmp_path / "cache")
        assert len(store.cases()) == 1
        case = store.cases()[0]
        orthanc.stop()
        with pytest.raises(ArchiveError, match="it cannot be reached; is the archive running"):
            read_image(case.images["ct"])
        assert not list(store.cache.folder.glob("images/*"))
        orthanc.start()
        read_image(case.images["ct"])
    with Orthanc(tmp_path / "plain") as orthanc:
        nowhere = opened(f"{orthanc.url}/nothing-here", spec, tmp_path / "cache")
        with pytest.raises(ArchiveError, match=r"there is no DICOMweb service at this address \(404\)"):
            nowhere.cases()


def test_real_studies_and_their_contours(tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc") as orthanc:
        assert orthanc.add_folder(real("sts_dicom")) == 380
        task = choose_task(orthanc.dicomweb, options={"cache": str(tmp_path / "cache")})
        assert task.name == "sarcoma_pet_ct_mr"
        store = opened(orthanc.dicomweb, task, tmp_path / "cache")
        cases = {case.patient: case for case in store.cases()}
        assert sorted(cases) == ["STS_002", "STS_008", "STS_025"]
        assert all(set(case.images) == {"ct", "pet", "mr_t1"} for case in cases.values())
        found = list(import_labels(store, real("sts_dicom_rtstruct"), {"GTV*": "tumour"}))
        assert [one.reason for one in found] == ["RTSTRUCT on mr_t1"] * 3
        label = read_case_label(store.case(cases["STS_002"].id), task)
        truth = read_label(real("sts_native") / "STS_002" / "label_mr_t1.nii.gz")
        assert label.grid.same_as(truth.grid)
        assert 2 * (label.voxels & truth.voxels).sum() / (label.voxels.sum() + truth.voxels.sum()) >= 0.97
        # a small model, for every series of a case the same finding on its own grid
        training = {"steps": 150, "patch": (16, 16, 16), "validation": 0.0, "learning_rate": 0.01}
        small = task.model_copy(
            update={
                "preprocess": task.preprocess.model_copy(update={"spacing_mm": (6.0, 6.0, 6.0)}),
                "network": Network(channels=(4, 8), strides=((1, 1, 1), (2, 2, 2))),
                "training": task.training.model_copy(update=training),
            }
        )
        cpu = torch.device("cpu")
        trained = train(small, store.cases(), device=cpu)
        model = Model("v0001", trained.network, trained.checkpoint, cpu)
        case = store.case(cases["STS_002"].id)
        masks = {name: segment(model, *store.resolve(case.series[name]), small) for name in case.images}
        on_ct = {
            name: resample_label(one.label, one.grid, masks["ct"].grid).astype(bool) for name, one in masks.items()
        }
        assert on_ct["ct"].any()
        for name, mask in on_ct.items():
            assert masks[name].grid.same_as(read_grid(case.images[name]))
            assert 2 * (mask & on_ct["ct"]).sum() / (mask.sum() + on_ct["ct"].sum()) > 0.8


def run(cache: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """The command line, as a user calls it."""
    monkeypatch.setenv("MAML_CACHE", str(cache))
    found = subprocess.run(
        [sys.executable, "-m", "maml_app", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "Traceback" not in found.stdout + found.stderr
    return found.returncode, " ".join(
        (found.stdout + found.stderr).split()
    )  # lines are wrapped at the terminal's width


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
