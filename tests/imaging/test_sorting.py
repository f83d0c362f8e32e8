"""Images of a series looked at one by one: what is left out, what is a volume of its own, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from maml_app.cases.spec import TaskSpec
from maml_app.errors import ImageError
from maml_app.imaging.dicom import read_series, stack
from maml_app.imaging.seg import Provenance, read_seg, write_seg
from maml_app.imaging.sorting import sort_out
from maml_app.imaging.survey import survey
from maml_app.phantom.dicom import write_series
from tests.imaging.objects import again, enhanced, images, modality, ramp, tell

Change = Callable[[list[Dataset]], list[Dataset]]


def scout(
    image: Dataset, kind: str = "ORIGINAL\\PRIMARY\\LOCALIZER", instance: str = "", **attributes: object
) -> Dataset:
    one = copy.deepcopy(image)
    one.SOPInstanceUID, one.ImageType = instance or generate_uid(), kind.split("\\")
    one.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    one.Rows, one.Columns = 12, 6
    one.PixelData = bytes(144)
    for keyword, value in attributes.items():
        setattr(one, keyword, value)
    return one


def without_place(image: Dataset) -> Dataset:
    one = scout(image, "DERIVED\\SECONDARY\\SCREEN SAVE")
    del one.ImagePositionPatient
    return one


LEFT_OUT: list[tuple[str, Change, str]] = [
    ("a scout", lambda s: [scout(s[0]), *s], "1 image with ImageType LOCALIZER left out"),
    ("a scout with the lowest UID", lambda s: [*s, scout(s[0], instance="0.1")], "1 image with ImageType LOCALIZER"),
    ("two scouts", lambda s: [scout(s[0]), *s, scout(s[0])], "2 images with ImageType LOCALIZER left out"),
    ("a scout that does not say so", lambda s: [scout(s[0], "ORIGINAL\\PRIMARY"), *s], "1 image that differs"),
    ("a scout of the same size", lambda s: [scout(s[0], Rows=7, Columns=9, PixelData=bytes(126)), *s], "LOCALIZER"),
    ("a screenshot", lambda s: [*s, without_place(s[0])], "1 image without a place in space"),
]


@pytest.mark.parametrize("case", LEFT_OUT, ids=[one[0] for one in LEFT_OUT])
def test_what_is_no_slice_is_left_out_and_told(spec: TaskSpec, case: tuple[str, Change, str]) -> None:
    _, change, note = case
    volume, order = read_series(change(images(spec)))
    np.testing.assert_array_equal(volume.voxels, ramp().voxels)
    assert note in "; ".join(order.notes)
    (found,) = survey(change(images(spec)))
    assert (found.problem, found.part, found.images) == ("", "", 5)
    assert note in "; ".join(found.notes)
    assert "LOCALIZER" not in found.attributes["ImageType"]  # the first slice speaks for the series


SEVERAL: list[tuple[str, str, Change, list[str]]] = [
    (
        "two acquisitions, interlaced",
        "ct",
        lambda s: [*tell(s, AcquisitionNumber=1), *again(s, 0.5, AcquisitionNumber=2)],
        ["AcquisitionNumber:1", "AcquisitionNumber:2"],
    ),
    (
        "interlaced, of another time and agent",
        "ct",
        lambda s: [*tell(s, AcquisitionNumber=3), *again(s, 0.3, AcquisitionNumber=4, ContrastBolusAgent="Iohexol")],
        ["AcquisitionNumber:3", "AcquisitionNumber:4"],
    ),
    (
        "interlaced, told by the clock alone",
        "ct",
        lambda s: [*tell(s, AcquisitionTime="110000"), *again(s, 0.5, AcquisitionTime="110130")],
        ["AcquisitionTime:110000", "AcquisitionTime:110130"],
    ),
    (
        "two acquisitions at the same places",
        "ct",
        lambda s: [*tell(s, AcquisitionNumber=1), *again(s, AcquisitionNumber=2)],
        ["AcquisitionNumber:1", "AcquisitionNumber:2"],
    ),
    (
        "two echoes",
        "mr_t1",
        lambda s: [*tell(s, EchoTime=12), *again(s, EchoTime=90)],
        ["EchoTime:12", "EchoTime:90"],
    ),
    (
        "echoes, interlaced",
        "mr_t1",
        lambda s: [*tell(s, EchoTime=12), *again(s, 0.5, EchoTime=90)],
        ["EchoTime:12", "EchoTime:90"],
    ),
    (
        "b-values",
        "mr_t1",
        lambda s: [*tell(s, DiffusionBValue=0.0), *again(s, DiffusionBValue=1000.0)],
        ["DiffusionBValue:0", "DiffusionBValue:1000"],
    ),
    (
        "three points in time",
        "mr_t1",
        lambda s: [
            *tell(s, TemporalPositionIdentifier=1),
            *again(s, TemporalPositionIdentifier=2),
            *again(s, TemporalPositionIdentifier=3),
        ],
        ["TemporalPosition:1", "TemporalPosition:2", "TemporalPosition:3"],
    ),
    (
        "points in time told by the clock alone",
        "mr_t1",
        lambda s: [*tell(s, AcquisitionTime="110000"), *again(s, AcquisitionTime="110105.5")],
        ["AcquisitionTime:110000", "AcquisitionTime:110105.5"],
    ),
    (
        "magnitude and phase",
        "mr_t1",
        lambda s: [*tell(s, ImageType=["ORIGINAL", "PRIMARY", "M"]), *again(s, ImageType=["ORIGINAL", "PRIMARY", "P"])],
        ["ImageType:ORIGINAL/PRIMARY/M", "ImageType:ORIGINAL/PRIMARY/P"],
    ),
    (
        "echoes and points in time",
        "mr_t1",
        lambda s: [
            *tell(s, EchoTime=5, AcquisitionTime="1100"),
            *again(s, EchoTime=5, AcquisitionTime="1101"),
            *again(s, EchoTime=9, AcquisitionTime="1100"),
        ],
        ["EchoTime:5+AcquisitionTime:1100", "EchoTime:5+AcquisitionTime:1101", "EchoTime:9"],
    ),
]


@pytest.mark.parametrize("case", SEVERAL, ids=[one[0] for one in SEVERAL])
def test_volumes_of_one_series_are_told_apart(spec: TaskSpec, case: tuple[str, str, Change, list[str]]) -> None:
    _, name, change, keys = case
    series = change(images(spec, name=name))
    assert sorted(one.key for one in sort_out(series).parts) == keys
    assert sorted((one.part, one.images, one.problem) for one in survey(series)) == [(key, 5, "") for key in keys]
    volume, order = read_series(series, keys[0])
    np.testing.assert_array_equal(volume.voxels, ramp().voxels)
    assert len(order.slices) == 5
    told = keys[-1].split(":")[0]
    with pytest.raises(ImageError, match=rf"expected one volume, got {len(keys)} in one series: .*{told} .*by hand"):
        stack(series)


ONE: list[tuple[str, str, Change]] = [
    ("an acquisition a slice", "ct", lambda s: [tell([one], AcquisitionNumber=n)[0] for n, one in enumerate(s)]),
    (
        "one acquisition after the other",
        "ct",
        lambda s: [*tell(s[:2], AcquisitionNumber=1), *tell(s[2:], AcquisitionNumber=2)],
    ),
    (
        "every second slice first",
        "mr_t1",
        lambda s: [tell([one], AcquisitionNumber=n % 2)[0] for n, one in enumerate(s)],
    ),
    (
        "every second slice first, by the clock",
        "mr_t1",
        lambda s: [tell([one], AcquisitionTime=f"11000{n % 2}")[0] for n, one in enumerate(s)],
    ),
    ("a time a slice", "mr_t1", lambda s: [tell([one], AcquisitionTime=f"11000{n}")[0] for n, one in enumerate(s)]),
    (
        "echo times with noise",
        "mr_t1",
        lambda s: [tell([one], EchoTime=9.95 + n % 2 / 100)[0] for n, one in enumerate(s)],
    ),
    ("sent twice under other UIDs", "ct", lambda s: [*s, *again(s)]),
    ("one image sent twice", "ct", lambda s: [*s, *again(s)[2:3]]),
]


@pytest.mark.parametrize("case", ONE, ids=[one[0] for one in ONE])
def test_what_is_one_volume_stays_one(spec: TaskSpec, case: tuple[str, str, Change]) -> None:
    _, name, change = case
    volume, _ = read_series(change(images(spec, name=name)))
    np.testing.assert_array_equal(volume.voxels, ramp().voxels)


def test_an_image_acquired_twice_is_refused_with_both_named(spec: TaskSpec) -> None:
    series = tell(images(spec), AcquisitionNumber=2)
    twice = again(series, AcquisitionNumber=3)[2]
    with pytest.raises(ImageError, match=r"got two at 1 of 5, .*AcquisitionNumber 2 and 3; delete one") as error:
        read_series([*series, twice])
    assert twice.SOPInstanceUID in str(error.value)
    same = again(series)[2]
    same.PixelData = bytes(len(same.PixelData))
    with pytest.raises(ImageError, match=r"got two at 1 of 5, .* with different pixels; delete one"):
        read_series([*series, same])


def test_frames_of_one_image_are_told_apart_too(spec: TaskSpec) -> None:
    series = images(spec, name="mr_t1")
    image = enhanced(series)
    groups = list(image.PerFrameFunctionalGroupsSequence)
    both = []
    for echo in (12.0, 90.0):
        for one in groups:
            frame, timing = copy.deepcopy(one), Dataset()
            timing.EffectiveEchoTime = echo
            frame.MREchoSequence = [timing]
            both.append(frame)
    image.PerFrameFunctionalGroupsSequence = both
    image.NumberOfFrames, image.PixelData = 10, image.PixelData * 2
    assert sorted(one.key for one in sort_out([image]).parts) == ["EchoTime:12", "EchoTime:90"]
    volume, order = read_series([image], "EchoTime:90")
    np.testing.assert_array_equal(volume.voxels, ramp().voxels)
    assert {one.frame for one in order.slices} == {5, 6, 7, 8, 9}


def agent(number: int, meaning: str) -> Dataset:
    code = Dataset()
    code.ContrastBolusAgentNumber, code.CodeValue, code.CodeMeaning = number, "C-B03A6", meaning
    return code


def usage(number: int, given: str) -> Dataset:
    group, one = Dataset(), Dataset()
    one.ContrastBolusAgentNumber, one.ContrastBolusAgentAdministered = number, given
    group.ContrastBolusUsageSequence = [one]
    return group


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (None, "Gadobutrol\\Iomeprol"),
        (usage(1, "YES"), "Gadobutrol"),
        (usage(2, "YES"), "Iomeprol"),
        (usage(1, "NO"), ""),
    ],
)
def test_a_contrast_agent_named_as_a_code_is_told(spec: TaskSpec, used: Dataset | None, said: str) -> None:
    image = tell([enhanced(images(spec, name="mr_t1"))], ContrastBolusAgent="")[0]
    image.ContrastBolusAgentSequence = [agent(1, "Gadobutrol"), agent(2, "Iomeprol")]
    if used is not None:
        for group in image.PerFrameFunctionalGroupsSequence:
            group.update(used)
    (found,) = survey([image])
    assert found.attributes.get("ContrastBolusAgent", "") == said
    image.ContrastBolusAgent = "Dotarem"
    (found,) = survey([image])
    assert found.attributes["ContrastBolusAgent"] == "Dotarem"


def spaced(spec: TaskSpec, step_mm: float, decimals: int, count: int = 30) -> list[Dataset]:
    series = write_series(ramp((5, 4, count)), modality(spec, "ct"), "case", 1, "series")
    for number, image in enumerate(series):
        image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        image.ImagePositionPatient = ["-60", "-60", f"{-300.3 + step_mm * number:.{decimals}f}"]
    return series


@pytest.mark.parametrize(
    ("step_mm", "decimals"), [(0.625, 1), (0.625, 2), (1.25, 1), (2.5, 0), (0.8, 1), (3.27, 1), (5.0, 0), (0.4, 1)]
)
def test_rounded_positions_are_even_and_a_gap_is_not(spec: TaskSpec, step_mm: float, decimals: int) -> None:
    series = spaced(spec, step_mm, decimals)
    order = stack(series)
    assert order.grid.spacing_mm[2] == pytest.approx(step_mm, rel=0.01)
    label = np.zeros(order.grid.shape, np.uint8)
    label[1:3, 2, 4:9], label[4, 0, 20:] = 1, 2
    seg = write_seg(label, order, series, spec, Provenance("MANUAL", 1))
    np.testing.assert_array_equal(read_seg(seg, order, spec, str(seg.FrameOfReferenceUID)), label)
    for lost in (1, 14, 28):
        with pytest.raises(ImageError, match=r"missing|uneven"):
            stack([*series[:lost], *series[lost + 1 :]])


def test_settings_of_pydicom_are_left_as_they_are(spec: TaskSpec) -> None:
    from pydicom import config

    before = config.settings.reading_validation_mode
    read_series(images(spec))
    assert config.settings.reading_validation_mode == before != config.IGNORE
