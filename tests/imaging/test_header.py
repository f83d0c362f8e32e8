"""Where a NIfTI header says that an image lies: what is accepted lies where ITK, and so Slicer, sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from maml_app.cases.case import FileRef
from maml_app.errors import GridError, MamlError
from maml_app.imaging.files import read_grid, read_image
from maml_app.imaging.volume import Array
from tests.builders import codes, edit, oblique, save, tissue

# offsets of header fields, NIfTI-1 standard
PIXDIM, UNITS, QUATERN, QOFFSET, SFORM = 76, 123, 256, 268, 280


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "t1.nii.gz", tissue(300))


def test_an_oblique_anisotropic_image_lies_where_itk_sees_it(image: Path) -> None:
    grid, seen = read_grid(FileRef(image)), sitk.ReadImage(str(image))
    for index in ((0, 0, 0), (11, 0, 3), (2, 9, 7)):
        lps = np.array(seen.TransformIndexToPhysicalPoint(index))
        assert np.allclose(lps * [-1, -1, 1], grid.affine[:3, :3] @ index + grid.affine[:3, 3], atol=1e-3)
    assert grid.spacing_mm == pytest.approx((4, 5, 7))


def moved(path: Path) -> None:
    edit(path, (QOFFSET, "f", (20.0,)))


def qform_only(path: Path, *more: tuple[int, str, tuple[float, ...]]) -> None:
    edit(path, codes(1, 0), (SFORM, "f", (0.0,) * 12), *more)


def sform_only(path: Path) -> None:
    edit(path, codes(0, 2), (QUATERN, "f", (0.0,) * 6))


def written_again(form: type, big: bool = False) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        old = nib.load(path)
        header = nib.Nifti1Header(endianness=">") if big else None
        if header is not None:
            header.set_data_dtype(np.float32)
        nib.save(form(np.asarray(old.dataobj), old.affine, header), path)

    return write


@pytest.mark.parametrize(
    "change",
    [
        qform_only,
        sform_only,
        lambda path: edit(path, (UNITS, "b", (0,))),
        lambda path: edit(path, (UNITS, "b", (10,))),  # mm and seconds
        lambda path: qform_only(path, (PIXDIM + 12, "f", (-7.0,))),
        lambda path: qform_only(path, (PIXDIM, "f", (0.0,))),
        lambda path: edit(path, (QOFFSET, "f", (-20.001,))),
        written_again(nib.Nifti2Image),
        written_again(nib.Nifti1Image, big=True),
    ],
    ids=["qform only", "sform only", "no unit", "mm and s", "pixdim < 0", "qfac 0", "rounded", "NIfTI-2", "big endian"],
)
def test_what_says_one_thing_is_read(image: Path, change: Callable[[Path], None]) -> None:
    change(image)
    volume = read_image(FileRef(image))
    assert np.allclose(volume.affine, oblique(), atol=1e-3)
    assert np.allclose(volume.voxels, tissue(300))


def units(number: int) -> Callable[[Path], None]:
    return lambda path: edit(path, (UNITS, "b", (number,)))


def sform(*rows: float) -> Callable[[Path], None]:
    return lambda path: edit(path, (SFORM, "f", rows))


def scaled(factor: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        affine: Array = np.diag([factor, factor, factor, 1.0]) @ oblique()
        save(path, tissue(300), affine)

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (moved, r"expected qform and sform to agree, got corners up to 40\.0 mm apart: .* by the qform"),
        (sform(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), "expected qform and sform to agree"),
        (sform(*(0.0,) * 12), "expected an affine that can be inverted"),
        (sform(float("nan"), *(0.0,) * 11), "expected a finite 4 x 4 affine"),
        (lambda path: edit(path, codes(0, 0)), "expected a qform or sform that places the image, got neither"),
        (lambda path: edit(path, codes(0, 0), (SFORM, "f", (0.0,) * 12)), "got neither: left and right cannot be told"),
        (units(1), "expected millimetres, got the unit metre"),
        (units(3), "expected millimetres, got the unit micron"),
        (scaled(0.001), "expected voxels of 0.05 to 50.0 mm"),
        (scaled(1000), "expected voxels of 0.05 to 50.0 mm"),
        (lambda path: edit(path, codes(0, 2), (PIXDIM + 4, "f", (1.0,) * 3)), "expected pixdim and affine to agree"),
        (lambda path: edit(path, (QUATERN, "f", (2.0, 0.0, 0.0))), "the qform .* is wrong|pixdim and affine|agree"),
    ],
)  # fmt: skip
def test_what_says_two_things_or_none_is_refused(image: Path, change: Callable[[Path], None], message: str) -> None:
    change(image)
    with pytest.raises(GridError, match=message) as told:
        read_image(FileRef(image))
    assert "t1.nii.gz" in str(told.value)
    assert "write the file again" in str(told.value)


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def gone(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.nii.gz")


def filled(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        voxels = tissue(300)
        voxels[0, 0, 0] = value
        save(path, voxels)

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pointer, "expected a NIfTI file"),
        (halved, "truncated or damaged"),
        (one_bit, "truncated or damaged|damaged header"),
        (gone, "got none that can be read"),
        (lambda path: path.write_bytes(b""), "got an empty file"),
        (filled(float("nan")), "expected finite voxels, got 1 that are NaN or infinite"),
        (filled(float("inf")), "expected finite voxels, got 1"),
        (lambda path: save(path, tissue(300).astype(np.complex64)), "expected numbers as voxels"),
        (lambda path: save(path, tissue(300)[:, :, :1]), "expected a 3D image of at least 2 voxels a side"),
        (lambda path: edit(path, (40, "h", (2,))), "expected a 3D image"),
    ],
)
def test_a_damaged_file_is_never_read_as_a_good_one(image: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(image)
    with pytest.raises(MamlError, match=message):
        read_image(FileRef(image))
