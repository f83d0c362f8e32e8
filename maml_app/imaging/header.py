"""Where a NIfTI header says that the image lies; a header that says two things, or nothing, is refused.

The NIfTI-1 standard has three ways to place voxels: none (codes 0), the qform, the sform. nibabel and FSL prefer the
sform, ITK and so 3D Slicer the qform unless the sform is that of the scanner. Where both are there and differ, a label
drawn in Slicer and an answer computed here would lie at different places.
"""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from maml_app.errors import GridError
from maml_app.imaging.volume import Grid

DISAGREE_VOX = 0.5  # qform and sform may differ by so much: the qform's rotation is rounded to float32
UNITS = {1: "metre", 3: "micron"}
FINEST_MM, COARSEST_MM, LARGEST_MM = 0.05, 50.0, 3000.0
REWRITE = "write the file again with one right affine, qform and sform alike, in mm"


def placed_grid(image: Any, shape: tuple[int, int, int]) -> Grid:
    """The grid of a loaded image.

    Raises:
        GridError: no affine at all, two that differ, units other than mm, or sizes that no patient has.
    """
    grid = Grid(shape, image.affine)
    if isinstance(image, nib.Nifti1Pair):
        _check_header(image, shape)
    extent = [side * edge for side, edge in zip(shape, grid.spacing_mm, strict=True)]
    if min(grid.spacing_mm) < FINEST_MM or max(grid.spacing_mm) > COARSEST_MM or max(extent) > LARGEST_MM:
        raise GridError(
            f"expected voxels of {FINEST_MM} to {COARSEST_MM} mm and at most {LARGEST_MM:.0f} mm, got {grid}"
        )
    return grid


def second_grid(image: nib.spatialimages.SpatialImage, grid: Grid) -> Grid:
    """Where programs that prefer the qform see an image whose `placed_grid` is `grid`; `grid` where there is one place.

    It differs by less than half a voxel, as where a converter rounded the cosines of the sform.
    """
    if not isinstance(image, nib.Nifti1Pair) or int(image.header["qform_code"]) <= 0:
        return grid
    return Grid(grid.shape, image.header.get_qform(coded=False))


def _check_header(image: Any, shape: tuple[int, int, int]) -> None:
    header = image.header
    unit = int(header["xyzt_units"]) % 8  # the lowest three bits are of space
    if unit not in (0, 2):
        raise GridError(f"expected millimetres, got the unit {UNITS.get(unit, f'number {unit}')}")
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    if qform <= 0 and sform <= 0:
        raise GridError("expected a qform or sform that places the image, got neither: left and right cannot be told")
    if qform > 0 and sform > 0:
        try:
            by_qform = Grid(shape, header.get_qform(coded=False))
        except (GridError, HeaderDataError, ValueError) as error:  # ValueError: no unit quaternion
            raise GridError(f"the qform (code {qform}) is wrong: {error}") from None
        _check_agreement(by_qform, Grid(shape, header.get_sform(coded=False)), (qform, sform))
    stated, meant = np.abs(header["pixdim"][1:4]), np.linalg.norm(image.affine[:3, :3], axis=0)
    if not np.allclose(stated, meant, rtol=0.01):
        raise GridError(
            f"expected pixdim and affine to agree, got {stated.round(4).tolist()} mm by pixdim, as Slicer sees "
            f"them, and of {meant.round(4).tolist()} mm by the affine"
        )


def _check_agreement(by_qform: Grid, by_sform: Grid, codes: tuple[int, int]) -> None:
    apart = by_qform.apart_mm(by_sform)
    if apart > DISAGREE_VOX * min(*by_qform.spacing_mm, *by_sform.spacing_mm):
        raise GridError(
            f"expected qform and sform to agree, got corners up to {apart:.1f} mm apart: {by_qform.place} by the qform "
            f"(code {codes[0]}), {by_sform.place} by the sform (code {codes[1]}); Slicer may see the one, FSL the other"
        )
