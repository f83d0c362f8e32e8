"""Volumes in files: NIfTI in, NIfTI or NRRD out, every way of being broken told apart; atomic writes."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from maml_app.cases.case import FileRef
from maml_app.disk import write_atomically
from maml_app.errors import GridError, ImageError, LabelError
from maml_app.imaging.claims import nifti_shape, unpacked
from maml_app.imaging.header import REWRITE, placed_grid, second_grid
from maml_app.imaging.nrrd_file import read_nrrd
from maml_app.imaging.volume import Array, Grid, Volume

COMMENT = 6  # code of a header extension that holds text


def write_image(path: Path, volume: Volume) -> None:
    """Write an image as NIfTI, atomically: int16 where that loses nothing, as with CT, else float32."""
    voxels = np.asarray(volume.voxels, dtype=np.float32)
    whole = voxels.size and np.abs(voxels).max() < 2**15 and not (voxels % 1).any()
    image = nib.Nifti1Image(voxels.astype(np.int16) if whole else voxels, volume.affine)
    write_atomically(path, lambda part: nib.save(image, part))


def _open(ref: FileRef) -> Any:
    path = ref.local()
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ImageError(f"{path}: expected a NIfTI file, got none that can be read ({error.strerror})") from None
    if size == 0:
        raise ImageError(f"{path}: expected a NIfTI file, got an empty file; copy it again")
    nifti_shape(path)  # before nibabel takes the header at its word
    try:
        return nib.load(path)
    except (
        ImageFileError,
        HeaderDataError,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
    ) as error:
        raise ImageError(f"{path}: expected a NIfTI file, got something else or a damaged header ({error})") from None


def _unpacked(ref: FileRef) -> Any:
    """The image in a gzip file, read to its end, where damage shows."""
    image = _open(ref)  # tells everything that the header shows
    try:
        return type(image).from_bytes(unpacked(ref.local()))
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError) as error:
        raise ImageError(f"{ref.path}: expected a NIfTI file, got something else or a damaged one ({error})") from None


def _grid(ref: FileRef, image: Any) -> Grid:
    shape = tuple(int(side) for side in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if ref.channel is not None:
        if len(shape) != 4 or not 0 <= ref.channel < shape[3]:
            raise ImageError(f"{ref.path}: expected a 4D image with channel {ref.channel}, got shape {image.shape}")
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 2:
        raise ImageError(f"{ref.path}: expected a 3D image of at least 2 voxels a side, got shape {tuple(image.shape)}")
    try:
        return placed_grid(image, (shape[0], shape[1], shape[2]))
    except GridError as error:
        raise GridError(f"{ref.path}: {error}; {REWRITE}") from None


def read_grid(ref: FileRef) -> Grid:
    """Shape and affine from the header alone. Raises as `read_image`."""
    return _grid(ref, _open(ref))


def read_grids(ref: FileRef) -> tuple[Grid, Grid]:
    """The grid, and the one that programs see which prefer the qform. Raises as `read_image`."""
    image = _open(ref)
    grid = _grid(ref, image)
    return grid, second_grid(image, grid)


def read_image(ref: FileRef) -> Volume:
    """Read one 3D image as float32 with the file's scaling applied.

    Raises:
        ImageError: no NIfTI, truncated, damaged, not 3D, or voxels that are NaN or infinite.
        GridError: the header does not say, or says twice, where the image lies (see `placed_grid`).
    """
    image = _unpacked(ref) if ref.local().name.lower().endswith(".gz") else _open(ref)
    grid = _grid(ref, image)
    kind = image.get_data_dtype()
    if kind.kind not in "iufb":
        raise ImageError(f"{ref.path}: expected numbers as voxels, got type {kind}")
    try:
        voxels = np.asarray(image.dataobj[..., ref.channel] if ref.channel is not None else image.dataobj, np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ImageError(
            f"{ref.path}: expected {image.shape} voxels, got a truncated or damaged file ({error})"
        ) from None
    voxels = voxels.reshape(grid.shape)
    wrong = int(voxels.size - np.isfinite(voxels).sum())
    if wrong:
        raise ImageError(f"{ref.path}: expected finite voxels, got {wrong} that are NaN or infinite")
    return Volume(voxels, grid.affine)


def read_label(path: Path) -> Volume:
    """Read a label map, NIfTI or NRRD, as uint8.

    Raises:
        ImageError, GridError: as `read_image`.
        LabelError: voxels that are no whole numbers from 0 to 255.
    """
    volume = read_nrrd(path) if path.name.lower().endswith(".nrrd") else read_image(FileRef(path))
    rounded = np.rint(volume.voxels)
    if np.abs(volume.voxels - rounded).max() > 1e-3 or rounded.min() < 0 or rounded.max() > 255:
        raise LabelError(
            f"{path}: expected whole numbers from 0 to 255 as label values, got values from "
            f"{volume.voxels.min():g} to {volume.voxels.max():g}"
        )
    return Volume(rounded.astype(np.uint8), volume.affine)


def read_label_values(path: Path) -> frozenset[int]:
    """The values above 0 in a label map; raises as `read_label`."""
    return frozenset(int(value) for value in np.unique(read_label(path).voxels) if value)


def write_label(path: Path, label: Array, affine: Array, compress: bool = True) -> None:
    """Write a label map (X, Y, Z) as uint8, atomically; .nii, .nii.gz or .nrrd by the name.

    Raises:
        ImageError: another extension.
    """
    label = np.ascontiguousarray(label, dtype=np.uint8)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        image = _label_image(label, affine)
        write_atomically(path, lambda part: nib.save(image, part))
    elif name.endswith(".nrrd"):
        import nrrd

        to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        header = {
            "space": "left-posterior-superior",
            "kinds": ["domain"] * 3,
            "space directions": to_lps[:3, :3].T,
            "space origin": to_lps[:3, 3],
            "encoding": "gzip" if compress else "raw",
        }
        write_atomically(path, lambda part: nrrd.write(str(part), label, header))
    else:
        raise ImageError(f"{path}: expected the extension .nii, .nii.gz or .nrrd, got {path.suffix or 'none'}")


def add_label(path: Path, label: Volume, record: str) -> None:
    """Write a label map as a new .nii.gz, atomically, with a text about it in its header: one file, so never apart.

    Raises:
        FileExistsError: there is such a file.
    """
    image = _label_image(np.ascontiguousarray(label.voxels, dtype=np.uint8), label.affine)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", record.encode()))
    write_atomically(path, lambda part: nib.save(image, part), replace=False)


def read_record(path: Path) -> str:
    """The text that `add_label` put into a file; '' if there is none, or the file is damaged."""
    try:
        extensions = nib.load(path).header.extensions
        texts = [part.get_content() for part in extensions if part.get_code() == COMMENT]
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error):
        return ""
    return next((text.rstrip(b"\0").decode(errors="replace") for text in texts if isinstance(text, bytes)), "")


def _label_image(label: Array, affine: Array) -> nib.Nifti1Image:
    image = nib.Nifti1Image(label, affine)
    try:
        image.set_qform(affine, code=1, strip_shears=False)
    except HeaderDataError:  # of a tilted gantry: only the sform can say it, and the qform must not say otherwise
        image.set_qform(None, code=0)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image
