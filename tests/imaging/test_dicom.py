"""DICOM series as volumes: order, geometry, values, and what is wrong with them."""

from __future__ import annotations

import math
import random
from pathlib import Path

import gdcm  # type: ignore[import-untyped]
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from maml_app.cases.case import FileRef
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ImageError
from maml_app.imaging.dicom import read_series, stack
from maml_app.imaging.files import read_image
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.survey import survey
from maml_app.imaging.volume import Grid
from maml_app.phantom.dicom import make_study
from tests.conftest import real
from tests.imaging.objects import again, enhanced, images, ramp, tell


def close(one: Grid, two: Grid) -> bool:
    return one.shape == two.shape and bool(np.allclose(one.affine, two.affine, atol=1e-4))


@pytest.mark.parametrize("name", ["ct", "pet", "mr_t1"])
def test_an_oblique_series_in_any_order_is_the_volume_it_was(spec: TaskSpec, name: str) -> None:
    volume = ramp()
    series = images(spec, volume, name)
    random.Random(1).shuffle(series)
    found, order = read_series([*series, series[0]])  # one image twice counts once
    assert close(found.grid, volume.grid)
    # PET is stored in steps of 1/32000 of its highest value, in Bq/ml
    np.testing.assert_allclose(found.voxels, volume.voxels, atol=314 / 32000 if name == "pet" else 0)
    by_uid = {image.SOPInstanceUID: image.InstanceNumber for image in series}
    assert [by_uid[instance] for instance in order.instances] == [1, 2, 3, 4, 5]
    assert order.names[0] == f"{order.instances[0]}/frames/1"


def test_slices_stored_from_the_top_down_lie_where_they_are(spec: TaskSpec) -> None:
    volume = ramp()
    series = images(spec, volume)
    # the same slices, each stored with its columns reversed: the normal points the other way
    for image in series:
        axes = np.array(image.ImageOrientationPatient, dtype=float)
        corner = np.array(image.ImagePositionPatient, dtype=float)
        image.ImageOrientationPatient = [*(-axes[:3]), *axes[3:]]
        image.ImagePositionPatient = list(corner + axes[:3] * float(image.PixelSpacing[1]) * (image.Columns - 1))
        image.PixelData = np.ascontiguousarray(image.pixel_array[:, ::-1]).tobytes()
    found, _ = read_series(series)
    np.testing.assert_array_equal(found.voxels, volume.voxels[::-1, :, ::-1])
    for index in ((0, 0, 0), (8, 6, 4), (2, 5, 1)):
        there = found.affine @ [*index, 1]
        here = np.rint(np.linalg.inv(volume.affine) @ there)[:3].astype(int)
        assert found.voxels[index] == volume.voxels[tuple(here)]


def test_a_tilted_gantry_is_a_sheared_affine(spec: TaskSpec) -> None:
    volume = ramp()
    series = images(spec, volume)
    tilt = np.array([0.0, 3.1 * math.tan(math.radians(15)), 0.0])
    for place, image in enumerate(series):
        image.ImagePositionPatient = list(np.array(image.ImagePositionPatient, dtype=float) + place * tilt)
    found, order = read_series(series)
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    # every voxel lies where its own slice says
    for place, one in enumerate(order.slices):
        position = np.array(series[one.image].ImagePositionPatient, dtype=float)
        np.testing.assert_allclose((found.affine @ [0, 0, place, 1])[:3], position * [-1, -1, 1], atol=1e-4)
    # and an object drawn on it keeps its volume and centre on an upright grid
    label = np.zeros(found.grid.shape, np.uint8)
    label[2:6, 1:5, 1:4] = 1
    fine = Grid((60, 60, 60), np.diag([0.5, 0.5, 0.5, 1.0]))
    centre = (found.affine @ [3.5, 2.5, 2, 1])[:3]
    fine.affine[:3, 3] = centre - 15
    moved = resample_label(label, found.grid, fine)
    assert moved.sum() * fine.voxel_ml == pytest.approx(label.sum() * found.grid.voxel_ml, rel=0.1)
    np.testing.assert_allclose(
        (fine.affine[:3, :3] @ np.argwhere(moved).mean(0)) + fine.affine[:3, 3], centre, atol=0.3
    )


def test_a_multi_frame_image_is_a_series(spec: TaskSpec) -> None:
    volume = ramp()
    image = enhanced(images(spec, volume))
    found, order = read_series([image])
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    assert close(found.grid, volume.grid)
    assert [one.frame for one in order.slices] == [1, 3, 0, 4, 2]
    assert order.names[0] == f"{image.SOPInstanceUID}/frames/2"


@pytest.mark.parametrize(
    "syntax",
    ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless", "ExplicitVRBigEndian"],
)
def test_compressed_images_are_decoded(spec: TaskSpec, tmp_path: Path, syntax: str) -> None:
    volume = ramp((24, 16, 3))
    stored = []
    for image in images(spec, volume):
        plain, packed = tmp_path / f"{image.InstanceNumber}.dcm", tmp_path / f"{image.InstanceNumber}-packed.dcm"
        image.save_as(plain, write_like_original=False)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        stored.append(pydicom.dcmread(packed))
        assert stored[-1].file_meta.TransferSyntaxUID != image.file_meta.TransferSyntaxUID
    found, _ = read_series(stored)
    np.testing.assert_array_equal(found.voxels, volume.voxels)


def test_a_missing_slice_is_an_error_that_names_where(spec: TaskSpec) -> None:
    series = images(spec)
    there = np.array(series[1].ImagePositionPatient, dtype=float).round(2).tolist()
    del series[2]
    with pytest.raises(ImageError) as error:
        stack(series)
    assert "1 missing" in str(error.value)
    assert str(there) in str(error.value)


def _set(keyword: str, value: object, image: int = 1) -> object:
    def change(series: list[Dataset]) -> None:
        setattr(series[image], keyword, value)

    return change


def _same_place(series: list[Dataset]) -> None:
    series[3].ImagePositionPatient = series[2].ImagePositionPatient


def _uneven(series: list[Dataset]) -> None:
    place = np.array(series[4].ImagePositionPatient, dtype=float)
    step = place - np.array(series[3].ImagePositionPatient, dtype=float)
    series[4].ImagePositionPatient = list(place + 0.4 * step)


def _strayed(series: list[Dataset]) -> None:
    axes = np.array(series[2].ImageOrientationPatient, dtype=float)
    series[2].ImagePositionPatient = list(np.array(series[2].ImagePositionPatient, dtype=float) + 2 * axes[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda series: series.__delitem__(slice(1, None)), "at least 2 slices, got 1"),
        (_set("Rows", 5), r"1 missing; .*; 1 image that differs from the others \(Size 9x5\) left out"),
        (_set("ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), r"1 missing; .*Orientation 1.000/0.000/.*left out"),
        (_set("PixelSpacing", [3, 3]), r"1 missing; .*PixelSpacing 3x3.*left out"),
        (_same_place, "1 missing; .*two images at one place"),
        (_uneven, "uneven steps"),
        (_strayed, "slices in a straight line"),
        (_set("ImagePositionPatient", None), "expected ImagePositionPatient"),
        (_set("SamplesPerPixel", 3), "expected grey values, got colour"),
        (_set("PixelData", b"short"), "expected pixels that can be decoded"),
        (_set("RescaleSlope", "1e39"), "expected finite pixel values"),
    ],
)
def test_what_is_no_volume_is_told(spec: TaskSpec, change: object, message: str) -> None:
    series = images(spec)
    change(series)  # type: ignore[operator]
    with pytest.raises(ImageError, match=message):
        read_series(series)


def pet(spec: TaskSpec, **changes: object) -> list[Dataset]:
    series = images(spec, name="pet")
    for image in series:
        for keyword, value in changes.items():
            where = (
                image if keyword in image or keyword == "SUVType" else image.RadiopharmaceuticalInformationSequence[0]
            )
            setattr(where, keyword, value)
    return series


def test_suv_follows_units_and_decay(spec: TaskSpec) -> None:
    plain = read_series(pet(spec))[0].voxels.max()
    # two half-lives of 1800 s instead of one hour at 6586 s: per becquerel injected, less is left
    faster = read_series(pet(spec, RadionuclideHalfLife=1800.0))[0].voxels.max()
    assert faster / plain == pytest.approx(4 / 2 ** (3600 / 6586.2), rel=1e-6)
    assert read_series(pet(spec, DecayCorrection="ADMIN"))[0].voxels.max() == pytest.approx(
        plain / 2 ** (3600 / 6586.2), rel=1e-6
    )
    assert read_series(pet(spec, PatientWeight=35.0))[0].voxels.max() == pytest.approx(plain / 2, rel=1e-6)
    # a series time after the acquisition was written by a later reconstruction: the acquisition counts
    assert read_series(pet(spec, SeriesTime="180000"))[0].voxels.max() == pytest.approx(plain, rel=1e-6)
    stored = float(pet(spec)[4].pixel_array.max()) * float(pet(spec)[4].RescaleSlope)
    assert read_series(pet(spec, Units="GML"))[0].voxels.max() == pytest.approx(stored, rel=1e-6)
    midnight = {"RadiopharmaceuticalStartTime": "233000", "SeriesTime": "003000", "AcquisitionTime": "003000"}
    assert read_series(pet(spec, **midnight))[0].voxels.max() == pytest.approx(plain, rel=1e-6)


def test_points_in_time_are_on_one_scale(spec: TaskSpec) -> None:
    first = tell(pet(spec, SeriesTime="180000"), TemporalPositionIdentifier=1)
    series = [*first, *again(first, AcquisitionTime="112000", TemporalPositionIdentifier=2)]
    one, two = (read_series(series, f"TemporalPosition:{number}")[0] for number in (1, 2))
    np.testing.assert_array_equal(one.voxels, two.voxels)
    # the second alone began too late to have an SUV: the headers of all are asked
    late = tell(series[5:], AcquisitionTime="235000")
    assert [found.problem for found in survey([*first, *late])] == ["", ""]


def test_an_image_without_a_place_says_nothing_of_when_a_pet_began(spec: TaskSpec) -> None:
    series = pet(spec)
    screenshot = tell(again(series[:2])[:1], AcquisitionTime="000000", SeriesTime="000000")[0]
    del screenshot.ImagePositionPatient
    assert [found.problem for found in survey([*series, screenshot])] == [""]
    np.testing.assert_array_equal(read_series([*series, screenshot])[0].voxels, read_series(series)[0].voxels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Units": "PROPCPS"}, "Units GML, BQML or CNTS, got PROPCPS"),
        ({"Units": "CNTS"}, r"Philips' SUV factor \(7053,1000\), got none"),
        ({"Units": "GML", "SUVType": "LBM"}, "body-weight SUV, got SUVType LBM"),
        ({"PatientWeight": None}, "PatientWeight above 0, got None"),
        ({"RadionuclideTotalDose": 0}, "RadionuclideTotalDose above 0"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection START or ADMIN, got NONE"),
        ({"RadiopharmaceuticalStartTime": ""}, "RadiopharmaceuticalStartTime, got none"),
        ({"RadiopharmaceuticalStartTime": "200000"}, "within 12 h of the injection, got 15.0 h"),
    ],
)
def test_pet_that_does_not_tell_its_suv_is_refused(spec: TaskSpec, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_series(pet(spec, **changes))


def test_the_phantom_as_dicom_is_the_phantom(spec: TaskSpec) -> None:
    study, case = make_study(spec, 3, 1, 24)
    for name, series in study.series.items():
        found, _ = read_series(series)
        truth = case.images[name]
        assert close(found.grid, truth.grid)
        np.testing.assert_allclose(found.voxels, truth.voxels, atol=0.51 if name != "pet" else 1e-3)
    assert len(study.extra) == 2  # a localizer and a copy


@pytest.mark.parametrize(("series", "name"), [("CT", "ct"), ("PET", "pet"), ("MR_T1", "mr_t1")])
def test_real_series_are_the_reference_volumes(series: str, name: str) -> None:
    files = sorted((real("sts_dicom") / "STS_002" / series).glob("*.dcm"))
    found, _ = read_series([pydicom.dcmread(file) for file in files])
    truth = read_image(FileRef(real("sts_native") / "STS_002" / f"{name}.nii.gz"))
    assert close(found.grid, truth.grid)
    np.testing.assert_allclose(found.voxels, truth.voxels, atol=1e-4)
