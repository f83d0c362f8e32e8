"""Label maps as DICOM SEG: what is written, and what comes back."""

from __future__ import annotations

import io
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import pack_bits

from maml_app.cases.spec import TaskSpec, load_task
from maml_app.errors import LabelError
from maml_app.imaging.dicom import Stack, stack
from maml_app.imaging.drawing import DrawnSegments, wanted
from maml_app.imaging.seg import Provenance, read_seg, seg_info, write_seg
from maml_app.imaging.volume import Array, Volume
from maml_app.phantom.dicom import write_series
from maml_app.stores.choice import shipped_tasks
from tests.imaging.objects import OBLIQUE, enhanced, images, orthogonal, ramp, tell

FRAME = "FrameOfReferenceUID"


@pytest.fixture(scope="module")
def series(spec: TaskSpec) -> list[Dataset]:
    return write_series(ramp((12, 10, 48)), spec.modalities[0], "case", 1, "series")


def label_of(kind: str, shape: tuple[int, int, int]) -> Array:
    label = np.zeros(shape, np.uint8)
    if kind == "last label only":
        label[2:5, 3:9, 10:30] = 2
    elif kind == "three slices of all":
        label[1:4, 2:4, 20:23] = 1
        label[7, 8, 21] = 2
    elif kind == "whole":
        label[:] = 1
        label[0, 0, 0] = 2
    return label


def stored(seg: Dataset) -> Dataset:
    """The SEG after a way through a file."""
    buffer = io.BytesIO()
    seg.save_as(buffer, write_like_original=False)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def written(label: Array, series: list[Dataset], spec: TaskSpec, **more: object) -> tuple[Dataset, Stack]:
    order = stack(series)
    arguments = {"drawn": "SEMIAUTOMATIC", "number": 3, "algorithm": "v0007", **more}
    return stored(write_seg(label, order, series, spec, Provenance(**arguments))), order  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["last label only", "empty", "three slices of all", "whole"])
def test_a_label_comes_back_voxel_by_voxel(spec: TaskSpec, series: list[Dataset], kind: str) -> None:
    label = label_of(kind, (12, 10, 48))
    seg, order = written(label, series, spec)
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)


def test_a_label_on_a_multi_frame_image_comes_back(spec: TaskSpec) -> None:
    image = enhanced(images(spec))
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    label = np.zeros((9, 7, 5), np.uint8)
    label[2:4, 1:5, 0], label[6, 3, 3] = 1, 2
    seg, order = written(label, [image], spec)
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)
    # the frames lie where the slices lie, not in the order in which they are stored
    for group in seg.PerFrameFunctionalGroupsSequence:
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        assert min(np.abs(place - one.position_mm).max() for one in order.slices) < 1e-3


def test_a_label_on_a_tilted_gantry_comes_back(spec: TaskSpec) -> None:
    tilted = images(spec)
    for place, image in enumerate(tilted):
        corner = np.array(image.ImagePositionPatient, dtype=float) + place * np.array([0.0, 0.8, 0.0])
        image.ImagePositionPatient = [f"{value:.6f}" for value in corner]
    label = np.zeros((9, 7, 5), np.uint8)
    label[2:4, 1:5, 0], label[6, 3, 3] = 1, 2
    seg, order = written(label, tilted, spec)
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)


def test_what_a_seg_says_of_itself(spec: TaskSpec, series: list[Dataset]) -> None:
    seg, order = written(label_of("last label only", (12, 10, 48)), series, spec, author="Doe^Jane")
    assert (seg.SegmentationType, seg.Modality) == ("BINARY", "SEG")
    assert [(one.SegmentNumber, one.SegmentLabel) for one in seg.SegmentSequence] == [(1, "organ"), (2, "lesion")]
    for one, label in zip(seg.SegmentSequence, spec.labels, strict=True):
        category, kind = one.SegmentedPropertyCategoryCodeSequence[0], one.SegmentedPropertyTypeCodeSequence[0]
        assert (category.CodingSchemeDesignator, category.CodeValue) == ("SCT", label.category.value)
        assert (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning) == (
            "SCT",
            label.type.value,
            label.type.meaning,
        )
        assert one.SegmentAlgorithmType == "SEMIAUTOMATIC"
        assert one.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "v0007"
        assert one.TrackingUID
        assert one.TrackingID == f"toy.{label.name}"
    assert len({one.TrackingUID for one in seg.SegmentSequence}) == 2
    assert seg[FRAME].value == series[0][FRAME].value
    assert seg.StudyInstanceUID == series[0].StudyInstanceUID
    reference = seg.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == series[0].SeriesInstanceUID
    listed = {one.ReferencedSOPInstanceUID for one in reference.ReferencedInstanceSequence}
    assert listed == set(order.instances) or listed <= set(order.instances)
    assert len(seg.PerFrameFunctionalGroupsSequence) == 20  # only slices that hold it
    info = seg_info(seg)
    assert (info.ours, info.task, info.drawn, info.number) == (True, "toy", "SEMIAUTOMATIC", 3)
    assert info.refers_to == series[0].SeriesInstanceUID
    assert str(seg.ContentCreatorName) == "Doe^Jane"


@pytest.mark.parametrize("drawn", ["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"])
def test_who_drew_it_is_in_every_segment(spec: TaskSpec, series: list[Dataset], drawn: str) -> None:
    seg, _ = written(label_of("empty", (12, 10, 48)), series, spec, drawn=drawn)
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {drawn}
    assert seg_info(seg).drawn == drawn


@pytest.mark.parametrize("task", sorted(shipped_tasks()))
@pytest.mark.parametrize("kind", ["empty", "three slices of all"])
def test_the_standard_s_checker_finds_no_error(tmp_path: Path, task: str, kind: str) -> None:
    spec = load_task(shipped_tasks()[task])
    series = write_series(
        Volume(ramp((12, 10, 48)).voxels % 900, orthogonal(OBLIQUE)), spec.modalities[0], "case", 1, "series"
    )
    for image in series:
        image.StudyID = "longer than DICOM's sixteen"  # as archives hold it
    label = label_of(kind, (12, 10, 48))
    label[label > len(spec.labels)] = len(spec.labels)
    seg, order = written(label, series, spec)
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)
    file = tmp_path / "seg.dcm"
    seg.save_as(file, write_like_original=False)
    found = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False)
    lines = (found.stdout + found.stderr).splitlines()
    assert "Segmentation" in lines
    assert not [line for line in lines if line.startswith("Error")]


def test_segments_are_told_by_name_then_by_code_never_by_order(spec: TaskSpec, series: list[Dataset]) -> None:
    label = label_of("three slices of all", (12, 10, 48))
    seg, order = written(label, series, spec)
    first, second = seg.SegmentSequence
    # another program's numbers and names: only codes and names tell which is which
    first.SegmentNumber, second.SegmentNumber = 2, 1
    for group in seg.PerFrameFunctionalGroupsSequence:
        one = group.SegmentIdentificationSequence[0]
        one.ReferencedSegmentNumber = 3 - one.ReferencedSegmentNumber
    first.SegmentLabel = "Segment 1"
    second.SegmentLabel = "Tumour"
    second.SegmentedPropertyTypeCodeSequence[0].CodeValue = "85756007"  # tissue: what viewers write for everything
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)
    second.SegmentLabel = "Segment 2"
    with pytest.raises(LabelError, match=r"segment 1: expected one of .*lesion \(SCT 108369006\).*got 'Segment 2'"):
        read_seg(seg, order, spec, seg[FRAME].value)
    second.SegmentLabel = "organ"
    with pytest.raises(LabelError, match="two that are organ"):
        read_seg(seg, order, spec, seg[FRAME].value)


def test_frames_are_placed_by_their_geometry(spec: TaskSpec, series: list[Dataset]) -> None:
    label = label_of("three slices of all", (12, 10, 48))
    seg, order = written(label, series, spec)
    groups = seg.PerFrameFunctionalGroupsSequence
    pixels = seg.pixel_array
    # the same frames, each turned by 180 degrees and cut to a part, in reverse order
    shared = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    axes = np.array(shared.ImageOrientationPatient, dtype=float).reshape(2, 3)
    spacing = np.array(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    shared.ImageOrientationPatient = list(-axes.ravel())
    for group in groups:
        position = group.PlanePositionSequence[0]
        corner = np.array(position.ImagePositionPatient, dtype=float)
        corner += axes[0] * spacing[1] * 10 + axes[1] * spacing[0] * 9
        position.ImagePositionPatient = [f"{value:.6f}"[:16] for value in corner]
    seg.PerFrameFunctionalGroupsSequence = list(groups)[::-1]
    cut = pixels[::-1, ::-1, 10::-1]
    seg.Columns = cut.shape[2]
    seg.PixelData = pack_bits(np.ascontiguousarray(cut).ravel())
    np.testing.assert_array_equal(read_seg(stored(seg), order, spec, seg[FRAME].value), label)


def test_what_was_drawn_on_every_other_slice_is_refused(spec: TaskSpec, series: list[Dataset]) -> None:
    label = np.zeros((12, 10, 48), np.uint8)
    label[2:5, 3:9, 11:31:2] = 2
    seg, order = written(label, series, spec)
    with pytest.raises(LabelError, match=r"region 'lesion'.*expected it on every slice, got it on slices .* of 48"):
        DrawnSegments(seg).mask("lesion", order.grid)
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)  # ours is as it was saved
    seg.ManufacturerModelName = "Another"
    with pytest.raises(LabelError, match=r"segment 'lesion': expected it on every slice, got it on slices .* of 48"):
        read_seg(seg, order, spec, seg[FRAME].value)
    label[2:5, 3:9, 10:31] = 2
    label[:, :, 20] = 0
    seg, order = written(label, series, spec)
    mask, said = DrawnSegments(seg).mask("lesion", order.grid)
    np.testing.assert_array_equal(mask, label == 2)
    assert len(said) == 1
    assert "though there is above and below" in said[0]
    seg.ManufacturerModelName = "Another"
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)


@pytest.mark.parametrize("slices", [(3, 12, 24), (3, 4, 10, 11, 20, 21, 27)])
def test_findings_one_above_the_other_are_no_gaps(spec: TaskSpec, series: list[Dataset], slices: list[int]) -> None:
    """Metastases on thick slices, each on one or two of them."""
    label = np.zeros((12, 10, 48), np.uint8)
    label[2:5, 3:9, slices] = 2
    seg, order = written(label, series, spec)
    seg.ManufacturerModelName = "Another"
    np.testing.assert_array_equal(read_seg(seg, order, spec, seg[FRAME].value), label)


@pytest.mark.parametrize(
    ("day", "time", "zone", "said"),
    [
        ("20240102", "203000.25", "-0500", "20240103013000.25"),
        ("2024.01.01", "00:30:00", "+0100", "20231231233000"),
        ("20240102", "0830", "+0530", "20240102030000"),
        ("20240102", "203000.25", "", "20240102203000.25"),
        ("20240102", "", "-0500", "20240102"),
        ("20240102", "203000", "EST", "20240102203000"),
    ],
)
def test_when_it_was_drawn_is_told_in_utc(day: str, time: str, zone: str, said: str) -> None:
    seg = Dataset()
    seg.SOPInstanceUID = seg.SeriesInstanceUID = "1.2.3"
    seg.ContentDate, seg.ContentTime, seg.TimezoneOffsetFromUTC = day, time, zone
    assert seg_info(seg).written == said


def test_ours_is_in_utc_whatever_the_zone_of_its_series(spec: TaskSpec) -> None:
    series = tell(images(spec), TimezoneOffsetFromUTC="-0500")
    drawn = Provenance("MANUAL", written=datetime(2024, 1, 2, 20, 30, tzinfo=UTC))
    label = label_of("empty", (9, 7, 5))
    assert seg_info(write_seg(label, stack(series), series, spec, drawn)).written.startswith("20240102203000")


def test_segments_of_one_name_are_told_apart_by_their_types(spec: TaskSpec, series: list[Dataset]) -> None:
    label = label_of("three slices of all", (12, 10, 48))
    seg, order = written(label, series, spec)
    for segment in seg.SegmentSequence:
        segment.SegmentLabel = "AI result"
    drawing = DrawnSegments(seg)
    found = wanted(drawing, spec, {})
    assert sorted(found.values()) == [1, 2]
    for region, value in found.items():
        np.testing.assert_array_equal(drawing.mask(region, order.grid)[0], label == value)
    for segment in seg.SegmentSequence:
        segment.SegmentedPropertyTypeCodeSequence = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence
    assert DrawnSegments(seg).regions == ["AI result"]


def test_fractional_and_labelmap_kinds_are_read(spec: TaskSpec, series: list[Dataset]) -> None:
    label = label_of("three slices of all", (12, 10, 48))
    seg, order = written(label, series, spec)
    binary = seg.pixel_array
    seg.SegmentationType, seg.MaximumFractionalValue = "FRACTIONAL", 200
    seg.BitsAllocated, seg.BitsStored, seg.HighBit = 8, 8, 7
    values = np.where(binary, 101, 99).astype(np.uint8)
    seg.PixelData = values.tobytes()
    np.testing.assert_array_equal(read_seg(stored(seg), order, spec, seg[FRAME].value), label)
    seg.SegmentationType = "LABELMAP"
    segments = [
        g.SegmentIdentificationSequence[0].ReferencedSegmentNumber for g in seg.PerFrameFunctionalGroupsSequence
    ]
    seg.PixelData = (binary * np.array(segments)[:, None, None]).astype(np.uint8).tobytes()
    np.testing.assert_array_equal(read_seg(stored(seg), order, spec, seg[FRAME].value), label)


def test_what_does_not_belong_is_refused(spec: TaskSpec, series: list[Dataset]) -> None:
    label = label_of("three slices of all", (12, 10, 48))
    seg, order = written(label, series, spec)
    with pytest.raises(LabelError, match=r"expected FrameOfReferenceUID 1\.2\.3, got"):
        read_seg(seg, order, spec, "1.2.3")
    pixels = seg.pixel_array
    overlapping = stored(seg)
    overlapping.PixelData = pack_bits(np.ones_like(pixels).ravel())
    with pytest.raises(LabelError, match="do not overlap, got 120 voxels that are both organ and lesion"):
        read_seg(overlapping, order, spec, seg[FRAME].value)
    shifted = stored(seg)
    for group in shifted.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [float(value) + 0.9 for value in position.ImagePositionPatient]
    with pytest.raises(LabelError, match="expected frames on the grid of its series"):
        read_seg(shifted, order, spec, seg[FRAME].value)
    broken = stored(seg)
    broken.PixelData = b"x"
    with pytest.raises(LabelError, match="expected frames that can be read"):
        read_seg(broken, order, spec, seg[FRAME].value)
    with pytest.raises(LabelError, match=r"expected a label of shape \(12, 10, 48\)"):
        write_seg(label[:-1], order, series, spec, Provenance("MANUAL", 1))
    with pytest.raises(LabelError, match=r"expected label values .*got \[7\]"):
        write_seg(np.full_like(label, 7), order, series, spec, Provenance("MANUAL", 1))
