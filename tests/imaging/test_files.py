from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from maml_app.cases.case import FileRef
from maml_app.disk import write_atomically
from maml_app.errors import GridError, ImageError, LabelError, MamlError
from maml_app.imaging.files import read_grid, read_image, read_label, write_label
from maml_app.imaging.volume import Array
from tests.imaging.shapes import key_shape, oblique, places_mm

GRID = oblique((20, 24, 12), (2.0, 1.8, 4.0), seed=3)
MASK = key_shape(places_mm(GRID)).astype(np.uint8) * 2


def save(path: Path, voxels: Array, affine: Array | None = None) -> FileRef:
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return FileRef(path)


def good(path: Path) -> FileRef:
    return save(path, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))


def truncated(path: Path) -> FileRef:
    content = good(path).path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return FileRef(path)


def text(path: Path) -> FileRef:
    path.write_text("this is no image\n")
    return FileRef(path)


def gzipped_text(path: Path) -> FileRef:
    path.write_bytes(gzip.compress(b"still no image, but a longer text " * 50))
    return FileRef(path)


def empty(path: Path) -> FileRef:
    path.write_bytes(b"")
    return FileRef(path)


def nan(path: Path) -> FileRef:
    voxels = np.ones((4, 4, 4), np.float32)
    voxels[1, 2, 3], voxels[0, 0, 0] = np.nan, np.inf
    return save(path, voxels)


def singular(path: Path) -> FileRef:
    ref = save(path, np.ones((4, 4, 4), np.float32))
    image = nib.load(path)
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    image.header["srow_x"] = image.header["srow_y"] = [1, 0, 0, 0]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    return ref


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (truncated, ImageError, "truncated or damaged"),
        (text, ImageError, "expected a NIfTI file, got something else"),
        (gzipped_text, ImageError, "expected a NIfTI file, got something else"),
        (empty, ImageError, "got an empty file"),
        (FileRef, ImageError, "got none that can be read"),
        (nan, ImageError, "expected finite voxels, got 2 that are NaN or infinite"),
        (singular, GridError, "expected an affine that can be inverted"),
        (lambda path: save(path, np.ones((5, 6), np.float32)), ImageError, r"3D image .* got shape \(5, 6\)"),
        (lambda path: save(path, np.ones((5, 6, 1), np.float32)), ImageError, r"at least 2 voxels a side, got shape"),
        (lambda path: save(path, np.ones((5, 6, 4, 3), np.float32)), ImageError, r"got shape \(5, 6, 4, 3\)"),
        (lambda path: save(path, np.ones((4, 4, 4), np.complex64)), ImageError, "expected numbers as voxels"),
        (
            lambda path: FileRef(save(path, np.ones((4, 4, 4, 2), np.float32)).path, 2),
            ImageError,
            r"4D image with channel 2, got shape \(4, 4, 4, 2\)",
        ),
    ],
)
def test_broken_files_are_told_apart_by_name(tmp_path: Path, make, error: type[MamlError], message: str) -> None:  # type: ignore[no-untyped-def]
    ref = make(tmp_path / "scan.nii.gz")
    with pytest.raises(error, match=r"scan\.nii\.gz.*" + message):
        read_image(ref)


def test_an_image_and_a_channel_of_a_4d_file_are_read_with_scaling(tmp_path: Path) -> None:
    voxels = np.arange(4 * 3 * 2 * 2, dtype=np.int16).reshape(4, 3, 2, 2)
    image = nib.Nifti1Image(voxels, GRID.affine)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii.gz")
    read = read_image(FileRef(tmp_path / "a.nii.gz", 1))
    # nibabel stores data / slope when it is given scaled data
    assert np.allclose(read.voxels, nib.load(tmp_path / "a.nii.gz").get_fdata()[..., 1])
    assert np.allclose(read.affine, GRID.affine, atol=1e-5)
    assert read_grid(FileRef(tmp_path / "a.nii.gz", 1)).shape == (4, 3, 2)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd"])
@pytest.mark.parametrize("compress", [True, False])
def test_a_label_comes_back_as_written(tmp_path: Path, name: str, compress: bool) -> None:
    write_label(tmp_path / name, MASK, GRID.affine, compress=compress)
    read = read_label(tmp_path / name)
    assert read.voxels.dtype == np.uint8
    assert (read.voxels == MASK).all()
    assert np.allclose(read.affine, GRID.affine, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_itk_reads_written_labels_in_the_same_place(tmp_path: Path, name: str) -> None:
    """Slicer and OHIF read through ITK and its conventions: an independent reader must find the same points."""
    write_label(tmp_path / name, MASK, GRID.affine)
    image = sitk.ReadImage(str(tmp_path / name))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert (sitk.GetArrayFromImage(image).T == MASK).all()
    for index in ((0, 0, 0), (19, 0, 5), (3, 21, 11)):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        ras = GRID.affine[:3, :3] @ index + GRID.affine[:3, 3]
        assert np.allclose(lps * [-1, -1, 1], ras, atol=1e-3)


def test_uncompressed_nrrd_is_raw_for_ohif(tmp_path: Path) -> None:
    write_label(tmp_path / "a.nrrd", MASK, GRID.affine, compress=False)
    header = nrrd.read_header(str(tmp_path / "a.nrrd"))
    assert (header["encoding"], header["type"]) == ("raw", "uint8")


@pytest.mark.parametrize("value", [1.5, -1, 300])
def test_labels_are_whole_numbers_of_a_byte(tmp_path: Path, value: float) -> None:
    voxels = np.zeros((4, 4, 4), np.float32)
    voxels[0, 0, 0] = value
    save(tmp_path / "label.nii.gz", voxels)
    with pytest.raises(LabelError, match=r"label\.nii\.gz: expected whole numbers from 0 to 255"):
        read_label(tmp_path / "label.nii.gz")


def test_other_extensions_and_broken_nrrd_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"expected the extension \.nii, \.nii\.gz or \.nrrd, got \.png"):
        write_label(tmp_path / "a.png", MASK, GRID.affine)
    (tmp_path / "a.nrrd").write_text("nothing")
    with pytest.raises(ImageError, match=r"a\.nrrd: expected an NRRD label map"):
        read_label(tmp_path / "a.nrrd")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(FileExistsError):
        write_atomically(target, lambda part: None, replace=False)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd"])
def test_a_label_on_a_sheared_grid_comes_back(tmp_path: Path, extension: str) -> None:
    """As a tilted gantry gives: what is written here can be read here, in its place."""
    affine = np.array([[-1.2, 0.1, 0.3, 30.0], [0.1, -1.7, 0.9, 12.0], [0.05, 0.2, 3.1, -44.0], [0, 0, 0, 1]])
    label = np.zeros((7, 6, 5), np.uint8)
    label[1:3, 2:6, 1] = 1
    label[4, 3, 2:4] = 2
    write_label(tmp_path / f"label{extension}", label, affine)
    found = read_label(tmp_path / f"label{extension}")
    np.testing.assert_array_equal(found.voxels, label)
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
