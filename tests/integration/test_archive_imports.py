"""What other software drew, taken over into cases of a real Orthanc: which objects, which regions, on which series."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from maml_app.cases.spec import TaskSpec
from maml_app.imaging.dicom import Stack, stack
from maml_app.imaging.files import read_label
from maml_app.imaging.seg import Provenance, write_seg
from maml_app.imaging.volume import Array
from maml_app.phantom.dicom import make_study
from maml_app.stores.imports import import_labels
from tests.imaging.objects import Points, structure_set
from tests.integration.conftest import Archive, opened

BOX: Points = [(3.4, 4.4), (8.6, 4.4), (8.6, 9.6), (3.4, 9.6)]  # voxels 4 to 8, 5 to 9
SMALL: Points = [(5.4, 6.4), (6.6, 6.4), (6.6, 7.6), (5.4, 7.6)]  # voxel 6, 7


@dataclass
class Study:
    """A study in the archive, and how to draw on its series."""

    series: dict[str, list[Dataset]]
    spec: TaskSpec
    cache: Path

    def order(self, name: str) -> Stack:
        return stack(self.series[name])

    def contours(self, name: str, regions: dict[str, list[tuple[Points, float]]], date: str = "20240201") -> Dataset:
        image = self.series[name][0]
        file = structure_set(self.order(name).grid, regions, instance=generate_uid())
        reference = file.ReferencedFrameOfReferenceSequence[0]
        reference.FrameOfReferenceUID = image.FrameOfReferenceUID
        study = reference.RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = image.SeriesInstanceUID
        file.SOPClassUID, file.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", generate_uid()
        file.StudyInstanceUID, file.PatientID, file.StructureSetDate = image.StudyInstanceUID, image.PatientID, date
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
        file.is_little_endian, file.is_implicit_VR = True, False
        return file

    def segments(self, name: str, label: Array, names: tuple[str, str] = ("organ", "lesion")) -> Dataset:
        seg = write_seg(label, self.order(name), self.series[name], self.spec, Provenance("MANUAL", 1))
        seg.ManufacturerModelName = "Another program"
        for segment, called in zip(seg.SegmentSequence, names, strict=True):
            segment.SegmentLabel = called
            segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "85756007"  # tissue, as viewers write
        return seg

    def label(self, name: str, values: dict[int, tuple[slice, slice, slice]]) -> Array:
        made = np.zeros(self.order(name).grid.shape, np.uint8)
        for value, place in values.items():
            made[place] = value
        return made


A, B = (slice(4, 9), slice(5, 10), slice(2, 4)), (slice(6, 7), slice(7, 8), slice(2, 3))
Drawn = Callable[[Study], list[Dataset]]


def two_files(study: Study) -> list[Dataset]:
    organ, lesion = study.label("ct", {1: A}), study.label("ct", {2: (*A[:2], slice(5, 6))})
    return [study.segments("ct", organ, ("organ", "spare")), study.segments("ct", lesion, ("spare", "lesion"))]


def no_series(file: Dataset) -> Dataset:
    del file.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    return file


def with_image(file: Dataset, instance: str) -> Dataset:
    image = Dataset()
    image.ReferencedSOPInstanceUID = instance
    for contour in file.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence = [image]
    return file


def no_reference(seg: Dataset) -> Dataset:
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
        if keyword in seg:
            delattr(seg, keyword)
    for group in seg.PerFrameFunctionalGroupsSequence:
        if "DerivationImageSequence" in group:
            del group.DerivationImageSequence
    return seg


LESION = {"GTV*": "lesion"}
ROWS: list[tuple[str, Drawn, dict[str, str], str, dict[int, int]]] = [
    (
        "organs in one set, the target in another",
        lambda s: [s.contours("ct", {"Bladder": [(BOX, 1)]}), s.contours("ct", {"GTV": [(BOX, 2), (BOX, 3)]})],
        LESION,
        "RTSTRUCT on ct",
        {2: 50},
    ),
    (
        "a label of each object",
        lambda s: [s.contours("ct", {"organ": [(BOX, 2)]}), s.contours("ct", {"GTV 1": [(SMALL, 2)]})],
        LESION,
        "RTSTRUCT on ct; 1 voxels are of two labels: lesion wins",
        {1: 24, 2: 1},
    ),
    (
        "the newest of two",
        lambda s: [s.contours("ct", {"GTV": [(BOX, 2)]}, "20240301"), s.contours("ct", {"GTV": [(SMALL, 2)]})],
        LESION,
        "is older and not taken",
        {2: 25},
    ),
    (
        "no series named, but images",
        lambda s: [with_image(no_series(s.contours("pet", {"GTV": [(BOX, 2)]})), s.order("pet").instances[2])],
        LESION,
        "RTSTRUCT on pet",
        {2: 25},
    ),
    (
        "only a frame of reference named",
        lambda s: [no_series(s.contours("mr_t1", {"GTV": [(BOX, 2), (BOX, 3), (BOX, 4)]}))],
        LESION,
        "RTSTRUCT on mr_t1",
        {2: 75},
    ),
    ("a SEG object a label", two_files, {}, "SEG on ct", {1: 50, 2: 25}),
    (
        "segments by the names that a viewer gave, others beside",
        lambda s: [s.segments("ct", s.label("ct", {1: A, 2: (*A[:2], slice(5, 6))}), ("Segment_1", "spleen"))],
        {"segment_1": "lesion"},
        "SEG on ct",
        {2: 50},
    ),
    (
        "a SEG that refers to nothing",
        lambda s: [no_reference(s.segments("mr_t1", s.label("mr_t1", {2: A})))],
        {},
        "SEG on mr_t1",
        {2: 50},
    ),
    (
        "contours and segments of one series",
        lambda s: [s.segments("ct", s.label("ct", {1: A}), ("organ", "spare")), s.contours("ct", {"GTV": [(BOX, 5)]})],
        LESION,
        "RTSTRUCT and SEG on ct",
        {1: 50, 2: 25},
    ),
]
REFUSED: list[tuple[str, Drawn, str]] = [
    ("no region of that name", lambda s: [s.contours("ct", {"Bladder": [(BOX, 1)]})], r"got \['Bladder'\].*--region"),
    (
        "two of one date",
        lambda s: [s.contours("ct", {"GTV": [(BOX, 2)]}), s.contours("ct", {"GTV": [(SMALL, 2)]})],
        r"or a newest, got 'GTV' of RTSTRUCT .* and 'GTV' of RTSTRUCT .*both of 20240201",
    ),
    (
        "beyond the series",
        lambda s: [s.contours("ct", {"GTV": [(BOX, 99)]})],
        "inside the series, got one on slice 100 of",
    ),
    ("every other slice", lambda s: [s.contours("ct", {"GTV": [(BOX, n) for n in (1, 3, 5)]})], "on slices 2, 4, 6 of"),
]


@pytest.fixture(scope="module")
def numbers() -> list[int]:
    return [100]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was read of the studies of the tests before."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def study(archive: Archive, spec: TaskSpec, numbers: list[int], cache: Path) -> Study:
    """A new study in the archive, with a series that is no modality."""
    numbers[0] += 1
    made, _ = make_study(spec, numbers[0], 0, 24)
    other = copy.deepcopy(made.series["mr_t1"])
    series = generate_uid()
    for image in other:
        image.SeriesInstanceUID, image.SeriesNumber, image.SeriesDescription = series, 40, "t1 MPR"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    archive.orthanc.add([*made.instances(), *other])
    return Study({**made.series, "other": other}, spec, cache)


def run(archive: Archive, study: Study, folder: Path, drawn: list[Dataset], names: dict[str, str]) -> list[str]:
    """What the import says of the study and of files that cannot be read; counts of its label are read back."""
    for number, file in enumerate(drawn):
        file.save_as(folder / f"{number}.dcm", write_like_original=False)
    store = opened(archive.url, study.spec, study.cache)
    uid = str(study.series["ct"][0].StudyInstanceUID)
    return [one.reason for one in import_labels(store, folder, names) if one.case.startswith((uid, str(folder)))]


def counts(archive: Archive, study: Study) -> dict[int, int]:
    label = opened(archive.url, study.spec, study.cache).case(str(study.series["ct"][0].StudyInstanceUID)).label
    assert label is not None
    values, found = np.unique(read_label(label.local()).voxels, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, found, strict=True) if value}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_is_drawn_becomes_a_label(
    archive: Archive, study: Study, tmp_path: Path, row: tuple[str, Drawn, dict[str, str], str, dict[int, int]]
) -> None:
    _, draw, names, reason, expected = row
    (said,) = run(archive, study, tmp_path, draw(study), names)
    assert reason in said
    assert counts(archive, study) == expected


@pytest.mark.parametrize("row", REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_a_label_is_refused(
    archive: Archive, study: Study, tmp_path: Path, row: tuple[str, Drawn, str]
) -> None:
    import re

    _, draw, reason = row
    (said,) = run(archive, study, tmp_path, draw(study), LESION)
    assert re.search(reason, said)
    store = opened(archive.url, study.spec, study.cache)
    assert store.case(str(study.series["ct"][0].StudyInstanceUID)).label is None


def test_drawn_on_a_series_of_the_case_that_is_no_modality(archive: Archive, study: Study, tmp_path: Path) -> None:
    (said,) = run(archive, study, tmp_path, [study.contours("other", {"GTV": [(BOX, 2)]})], LESION)
    assert "RTSTRUCT on series" in said
    assert "#40 t1 MPR" in said
    assert counts(archive, study) == {2: 25}


def test_a_bad_object_costs_only_itself(archive: Archive, study: Study, tmp_path: Path) -> None:
    bad = study.segments("ct", study.label("ct", {1: A}))
    del bad.SegmentSequence[0].SegmentNumber
    elsewhere = study.contours("ct", {"GTV": [(BOX, 2)]})
    elsewhere.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[
        0
    ].SeriesInstanceUID = "1.2.3.4"
    cut = tmp_path / "cut.dcm"
    study.contours("ct", {"GTV": [(BOX, 2)]}).save_as(cut, write_like_original=False)
    cut.write_bytes(cut.read_bytes()[:-30])
    good = study.contours("ct", {"GTV": [(BOX, 2)]})
    said = run(archive, study, tmp_path, [elsewhere, good, bad], LESION)
    assert any(one.startswith("RTSTRUCT on ct") for one in said), said
    assert any("could not be read: expected a structure set or SEG" in one for one in said), said
    assert counts(archive, study) == {2: 25}


def test_an_object_of_a_series_that_is_not_there_is_told(archive: Archive, study: Study, tmp_path: Path) -> None:
    file = study.contours("ct", {"GTV": [(BOX, 2)]})
    reference = file.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    reference.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"
    (said,) = run(archive, study, tmp_path, [file], LESION)
    assert "refers to series 1.2.3.4, which is none of it" in said


def test_an_archive_s_label_keeps_its_id_when_another_goes_away(archive: Archive, study: Study, tmp_path: Path) -> None:
    uid = str(study.series["ct"][0].StudyInstanceUID)
    store = opened(archive.url, study.spec, study.cache)
    run(archive, study, tmp_path, [study.contours("ct", {"GTV": [(BOX, 2)]})], LESION)
    list(import_labels(store, tmp_path, LESION, again=True))
    first, second = store.case(uid).labels
    assert (first.id[:11], second.id[:11]) == ("final-0001-", "final-0002-")
    seg = next(info for one in store.examinations(uid) for info in one.segs if info.instance in first.path.name)
    archive.orthanc.delete_series(seg.series)
    assert [one.id for one in store.case(uid).labels] == [second.id]
