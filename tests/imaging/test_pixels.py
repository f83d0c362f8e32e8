"""Stored pixels as values: only the stored bits, padding outside, CT in HU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pydicom.dataset import Dataset

from maml_app.cases.spec import TaskSpec
from maml_app.errors import ImageError
from maml_app.imaging.dicom import read_series
from maml_app.imaging.survey import survey
from maml_app.imaging.volume import Array, Volume
from tests.imaging.objects import OBLIQUE, enhanced, images, orthogonal

SHAPE = (9, 7, 5)
AIR = -1024.0


def body() -> Array:
    """HU, each voxel another value, none the same along any axis; some fat and air."""
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) * 3 - 500


def stored(spec: TaskSpec, name: str = "ct", **attributes: object) -> list[Dataset]:
    series = images(spec, Volume(body() if name == "ct" else body() + 600, orthogonal(OBLIQUE)), name)
    for image in series:
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
    return series


def rewrite(series: list[Dataset], change: object, kind: str) -> None:
    for image in series:
        values = image.pixel_array.astype(np.int64)
        image.PixelData = change(values).astype(kind).tobytes()  # type: ignore[operator]


def outside() -> Array:
    """Where a round field of view has no pixels: (rows, columns)."""
    row, column = np.mgrid[: SHAPE[1], : SHAPE[0]]
    return np.asarray((row - 3) ** 2 + (column - 4) ** 2 > 12)


BITS = [
    # bits stored, high bit, signed, what lies in the unused bits
    ("unsigned, overlay above", 12, 11, 0, lambda v: v | 0x8000),
    ("unsigned, remains above", 12, 11, 0, lambda v: v | 0x7000),
    ("signed, zeros above", 12, 11, 1, lambda v: (v - 1024) & 0x0FFF),
    ("signed, ones above", 12, 11, 1, lambda v: (v - 1024) & 0xFFFF),
    ("signed, overlay above", 12, 11, 1, lambda v: ((v - 1024) & 0x0FFF) | 0x8000),
    ("unsigned, at the top", 12, 15, 0, lambda v: v << 4 | 0x7),
    ("signed, at the top", 12, 15, 1, lambda v: ((v - 1024) << 4) & 0xFFFF | 0x3),
    ("a high bit that cannot be", 12, 3, 0, lambda v: v | 0x8000),
    ("all bits, unsigned", 16, 15, 0, lambda v: v),
    ("all bits, signed", 16, 15, 1, lambda v: (v - 1024) & 0xFFFF),
]


@pytest.mark.parametrize("case", BITS, ids=[one[0] for one in BITS])
def test_only_the_stored_bits_count(spec: TaskSpec, case: tuple[str, int, int, int, object]) -> None:
    _, bits, high, signed, change = case
    series = stored(spec)
    rewrite(series, change, "<u2")
    for image in series:
        image.BitsStored, image.HighBit, image.PixelRepresentation = bits, high, signed
        image.RescaleIntercept = 0 if signed else -1024
    np.testing.assert_array_equal(read_series(series)[0].voxels, body())


PADDING = [
    # signed, what is written outside, PixelPaddingValue, PixelPaddingRangeLimit, bits stored
    ("unsigned, far above", 0, 63536, 63536, None, 16),
    ("unsigned, above the stored bits", 0, 63536, 63536, None, 12),
    ("signed, below", 1, -2000, -2000, None, 16),
    ("signed, named as unsigned", 1, -2000, 63536, None, 16),
    ("a range", 1, -1990, -2000, -1980, 16),
    ("a range, the other way round", 1, -1990, -1980, -2000, 16),
    ("within the stored bits", 0, 4095, 4095, None, 12),
    ("a range of high values", 0, 4050, 4000, 4095, 12),
]


@pytest.mark.parametrize("case", PADDING, ids=[one[0] for one in PADDING])
def test_padding_lies_outside(spec: TaskSpec, case: tuple[str, int, int, int, int | None, int]) -> None:
    _, signed, written, value, limit, bits = case
    series = stored(spec, PixelRepresentation=signed, BitsStored=bits, HighBit=bits - 1)
    rewrite(series, lambda v: np.where(outside(), written, v - (1024 if signed else 0)) & 0xFFFF, "<u2")
    for image in series:
        image.RescaleIntercept = 0 if signed else -1024
        image.add_new(0x00280120, "SS" if value < 0 else "US", value)
        if limit is not None:
            image.add_new(0x00280121, "SS" if limit < 0 else "US", limit)
    expected = np.where(outside().T[:, :, None], AIR, body())
    np.testing.assert_array_equal(read_series(series)[0].voxels, expected)


def test_a_padding_value_that_is_tissue_is_tissue_unless_it_lies_at_a_corner(spec: TaskSpec) -> None:
    series = stored(spec, PixelRepresentation=1)
    water = int(body()[4, 3, 2])
    rewrite(series, lambda v: (v - 1024) & 0xFFFF, "<u2")
    for image in series:
        image.RescaleIntercept = 0
        image.add_new(0x00280120, "SS", water)
    np.testing.assert_array_equal(read_series(series)[0].voxels, body())


def test_padding_of_mr_is_zero(spec: TaskSpec) -> None:
    series = stored(spec, "mr_t1")
    rewrite(series, lambda v: np.where(outside(), 30000, v), "<u2")
    for image in series:
        image.add_new(0x00280120, "SS", 30000)
    expected = np.where(outside().T[:, :, None], 0, body() + 600)
    np.testing.assert_array_equal(read_series(series)[0].voxels, expected)


def _no_rescale(image: Dataset) -> None:
    del image.RescaleSlope
    del image.RescaleIntercept


def _lut_of_density(image: Dataset) -> None:
    _no_rescale(image)
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [4096, 0, 16], "OD", list(range(4096))
    image.ModalityLUTSequence = [lut]


UNITS = [
    (lambda image: setattr(image, "RescaleType", "MGML"), "Hounsfield units, got RescaleType MGML"),
    (lambda image: setattr(image, "RescaleType", "OD"), "Hounsfield units, got RescaleType OD"),
    (lambda image: setattr(image, "RescaleType", "HU_MOD"), "Hounsfield units, got RescaleType HU_MOD"),
    (_lut_of_density, "Hounsfield units, got RescaleType OD"),
    (_no_rescale, "RescaleSlope and RescaleIntercept to Hounsfield units, got neither, and values from 524"),
    (lambda image: setattr(image, "PhotometricInterpretation", "PALETTE COLOR"), "grey values, got colour"),
]


@pytest.mark.parametrize(("change", "message"), UNITS)
def test_what_is_not_hu_is_not_taken_for_hu(spec: TaskSpec, change: object, message: str) -> None:
    series = stored(spec)
    for image in series:
        change(image)  # type: ignore[operator]
    with pytest.raises(ImageError, match=message):
        read_series(series)


@pytest.mark.parametrize("name", ["ct", "mr_t1"])
@pytest.mark.parametrize(("samples", "kind"), [(3, "RGB"), (1, "PALETTE COLOR")])
def test_colour_is_told_from_the_headers(spec: TaskSpec, name: str, samples: int, kind: str) -> None:
    series = stored(spec, name)
    series[2].SamplesPerPixel, series[2].PhotometricInterpretation = samples, kind
    with pytest.raises(ImageError, match="grey values, got colour") as error:
        read_series(series)
    for image in series:
        del image.PixelData
    (found,) = survey(series)
    assert found.problem == str(error.value)


def test_hu_that_is_stored_as_it_is_needs_no_rescale(spec: TaskSpec) -> None:
    series = stored(spec)
    rewrite(series, lambda v: v - 1024, "<i2")
    for image in series:
        _no_rescale(image)
        image.PhotometricInterpretation = "MONOCHROME1"  # how it is shown, not what it is
    np.testing.assert_array_equal(read_series(series)[0].voxels, body())


@pytest.mark.parametrize(
    ("name", "lost", "got"),
    [
        ("ct", ("RescaleSlope", "RescaleIntercept"), r"RescaleSlope and RescaleIntercept in 3 \(as .*\), neither in 2"),
        ("ct", ("RescaleIntercept",), r"RescaleSlope and RescaleIntercept in 3 \(as .*\), RescaleSlope in 2"),
        ("pet", ("RescaleSlope",), r"RescaleSlope and RescaleIntercept in 3 \(as .*\), RescaleIntercept in 2"),
    ],
)
def test_slices_on_two_scales_are_refused_from_their_headers(
    spec: TaskSpec, name: str, lost: tuple[str, ...], got: str
) -> None:
    series = stored(spec, name)
    for image in series[3:]:
        for keyword in lost:
            delattr(image, keyword)
    with pytest.raises(ImageError, match=rf"in all 5 slices, got {got} .*{series[3].SOPInstanceUID}") as error:
        read_series(series)
    (found,) = survey(series)
    assert found.problem == str(error.value)


@pytest.mark.parametrize("order", [("HU", "Z_EFF"), ("Z_EFF", "HU")])
def test_each_frame_says_whether_it_is_in_hu(spec: TaskSpec, order: tuple[str, str]) -> None:
    image = enhanced(stored(spec))
    (values,) = image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    del image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    frames = []
    for number, kind in enumerate(order):
        for one in image.PerFrameFunctionalGroupsSequence:
            frame, acquisition, own = copy.deepcopy(one), Dataset(), copy.deepcopy(values)
            acquisition.FrameAcquisitionNumber, own.RescaleType = number, kind
            frame.FrameContentSequence, frame.PixelValueTransformationSequence = [acquisition], [own]
            frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    image.NumberOfFrames, image.PixelData = 10, image.PixelData * 2
    hounsfield, other = (f"AcquisitionNumber:{order.index(kind)}" for kind in ("HU", "Z_EFF"))
    np.testing.assert_array_equal(read_series([image], hounsfield)[0].voxels, body())
    with pytest.raises(ImageError, match="Hounsfield units, got RescaleType Z_EFF"):
        read_series([image], other)
    problems = {found.part: found.problem for found in survey([image])}
    assert problems[hounsfield] == ""
    assert "got RescaleType Z_EFF" in problems[other]
