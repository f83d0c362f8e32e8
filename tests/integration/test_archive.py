"""Cases and labels in a real Orthanc."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from maml_app.cases.series import Choice
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ArchiveError, CaseError, TaskSpecError
from maml_app.imaging.check import inspect
from maml_app.imaging.dicom import stack
from maml_app.imaging.files import read_grid, read_image
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.seg import Provenance, write_seg
from maml_app.phantom.dicom import make_study, truth_on, write_series
from maml_app.stores.dicomweb import DicomWebStore
from tests.harness.orthanc import Orthanc
from tests.integration.conftest import Archive, case_of, opened


def test_series_are_found_assigned_and_explained(store: DicomWebStore, archive: Archive) -> None:
    examinations = store.examinations()
    assert len(examinations) == 5
    by_study = {one.study: one for one in examinations}
    for number in range(5):
        one = by_study[archive.study_uid(number)]
        expected = {name: archive.uid(number, name) for name in archive.studies[number][0].series}
        assert {name: series.uid for name, series in one.series.items()} == expected
        choices: dict[str, Choice] = {choice.series.uid: choice for choice in one.choices}
        localizer = choices[str(archive.studies[number][0].extra[0][0].SeriesInstanceUID)]
        assert (localizer.modality, localizer.reasons) == (None, ("localizer",))
        assert all(choice.reasons for choice in one.choices)
    copied = archive.studies[1][0].extra[1][0].SeriesInstanceUID
    lost = next(v for v in by_study[archive.study_uid(1)].choices if v.series.uid == copied)
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


def test_a_series_that_is_no_volume_is_left_out_of_its_case_and_told(
    archive: Archive, spec: TaskSpec, tmp_path: Path
) -> None:
    store = opened(archive.url, spec, tmp_path / "cache")
    study, _ = make_study(spec, 10, 0, 24)
    order = stack(study.series["ct"])
    drawn = write_seg(np.zeros(order.grid.shape, np.uint8), order, study.series["ct"], spec, Provenance("MANUAL", 1))
    gap = study.series["ct"].pop(3)
    archive.orthanc.add([*study.instances(), drawn])
    case = store.case(str(gap.StudyInstanceUID))
    assert set(case.images) == {"pet", "mr_t1"}
    assert re.search(r"series .* \(#2 ct\): expected a slice every .* 1 missing", case.left_out["ct"])
    assert case.left_out["ct"] in " ".join(inspect(case, spec).problems)
    assert case.label is not None
    assert re.search(r"drawn on series .*, which cannot be used: expected a slice every", case.label.problem)
    assert inspect(case, spec).label == "unusable"
    with pytest.raises(CaseError, match=r"cannot be segmented: expected a slice every .* 1 missing"):
        store.resolve(str(gap.SeriesInstanceUID))
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


def test_a_study_in_two_frames_of_reference_is_two_cases(
    store: DicomWebStore, archive: Archive, spec: TaskSpec
) -> None:
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


def test_an_address_that_is_no_archive(archive: Archive, spec: TaskSpec, tmp_path: Path) -> None:
    nowhere = opened(f"{archive.orthanc.url}/nothing-here", spec, tmp_path / "cache")
    with pytest.raises(ArchiveError, match=r"there is no DICOMweb service at this address \(404\)"):
        nowhere.cases()


def test_a_series_is_set_by_hand_and_stays_so(
    store: DicomWebStore, archive: Archive, spec: TaskSpec, tmp_path: Path
) -> None:
    study, ct, mr = archive.study_uid(0), archive.uid(0, "ct"), archive.uid(0, "mr_t1")
    told = {choice.series.uid: choice.modality for choice in store.choices(study)}
    assert told[ct] == "ct"
    assert None in told.values()  # the localizer
    store.set_modality(ct, "")
    assert "ct" not in case_of(store, archive, 0).images
    store.set_modality(ct, "mr_t1")
    assert case_of(store, archive, 0).series["mr_t1"] == ct
    store.set_modality(mr, "mr_t1")  # the one set before is free again
    case = case_of(opened(archive.url, spec, tmp_path / "cache"), archive, 0)
    assert (case.series["mr_t1"], case.series["ct"]) == (mr, ct)
    with pytest.raises(TaskSpecError, match=r"expected a modality of .* got 'x'"):
        store.set_modality(ct, "x")
    with pytest.raises(CaseError, match=r"unknown one '1\.2\.3'"):
        store.set_modality("1.2.3", "ct")
