"""The planes of DICOM images, in order, and the grid that they span.

Voxel axes are column, row, slice (rising along the normal of the slices), the affine leads to RAS mm. A gantry-tilted
stack is a sheared affine, as it is in space (PS3.3 C.7.6.2.1.1 and C.7.6.16.2.3 to .4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from maml_app.errors import ImageError
from maml_app.imaging.volume import Array, Grid

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's patient axes run to L, P, S
UNEVEN = 0.05  # a slice may lie this part of the usual step away from where it is expected
ROUNDED = 0.25  # or so much, where its position is written with few decimals; a missing slice is half a step or more
SAME_PLACE = 0.01  # of a step, or 1 micrometre: two images that are no further apart lie at one place


@dataclass(frozen=True, eq=False)
class Slice:
    """One image plane: where it is stored (`frame` counts from 0), and its geometry in DICOM's patient axes, mm."""

    instance: str
    frame: int
    image: int
    position_mm: Array
    axes: Array  # (2, 3): along the columns, then along the rows
    spacing_mm: tuple[float, float]  # between columns, between rows
    size: tuple[int, int] = (0, 0)  # columns, rows

    @property
    def normal(self) -> Array:
        return np.asarray(np.cross(self.axes[0], self.axes[1]))


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of the volume's third axis, and the grid they span.

    `repeats` are pairs of slices that lie at one place and that no header tells apart: the first is in the stack, and
    both must hold the same pixels. `notes` say what was left out.
    """

    slices: tuple[Slice, ...]
    grid: Grid
    repeats: tuple[tuple[Slice, Slice], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def instances(self) -> list[str]:
        """SOPInstanceUID of each slice, along the third axis."""
        return [slice_.instance for slice_ in self.slices]

    @property
    def names(self) -> list[str]:
        """Each slice as WADO-RS addresses it, `INSTANCE/frames/NUMBER`, along the third axis."""
        return [f"{slice_.instance}/frames/{slice_.frame + 1}" for slice_ in self.slices]


def groups(image: Dataset, frame: int) -> list[Dataset]:
    """The functional groups of a frame: its own, then those shared by all frames (PS3.3 C.7.6.16)."""
    found = []
    for keyword, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = image.get(keyword)
        if items and len(items) > place:
            found.append(items[place])
    return found


def group(image: Dataset, frame: int, name: str) -> Dataset | None:
    """One functional group of a frame by its keyword; None if the image has none."""
    for group in groups(image, frame):
        if group.get(name):
            found: Dataset = group.get(name)[0]
            return found
    return None


def attribute(image: Dataset, frame: int, keyword: str) -> Any:
    """An attribute of a frame, wherever it is kept: in its groups, in the shared ones, or in the image."""
    for group in groups(image, frame):
        for element in group:
            if element.VR == "SQ" and element.value and keyword in element.value[0]:
                return element.value[0].get(keyword)
    return image.get(keyword)


def frames_of(image: Dataset) -> int:
    try:
        return max(int(image.get("NumberOfFrames") or 1), 1)
    except (TypeError, ValueError):
        return 1


def planes(image: Dataset, index: int = 0) -> list[Slice]:
    """The planes of one image, a frame each; `index` is what `Slice.image` will say. Raises ImageError."""
    where = f"image {image.get('SOPInstanceUID', '(no UID)')}"
    result = []
    for frame in range(frames_of(image)):
        position = group(image, frame, "PlanePositionSequence") or image
        orientation = group(image, frame, "PlaneOrientationSequence") or image
        measures = group(image, frame, "PixelMeasuresSequence") or image
        try:
            place = np.array([float(value) for value in position.ImagePositionPatient])
            cosines = np.array([float(value) for value in orientation.ImageOrientationPatient]).reshape(2, 3)
            rows, columns = (float(value) for value in measures.PixelSpacing)
            size = (int(image.Columns), int(image.Rows))
            if len(place) != 3 or not np.isfinite([*place, *cosines.ravel(), rows, columns]).all():
                raise ValueError("numbers that are no place")
        except (AttributeError, TypeError, ValueError) as error:
            raise ImageError(
                f"{where}: expected ImagePositionPatient, ImageOrientationPatient, PixelSpacing, Rows and Columns, "
                f"got: {error}"
            ) from None
        result.append(Slice(str(image.SOPInstanceUID), frame, index, place, cosines, (columns, rows), size))
    return result


def places_mm(slices: Sequence[Slice]) -> Array:
    """Where slices of one orientation lie along their normal, mm."""
    return np.array([slice_.position_mm for slice_ in slices]) @ slices[0].normal


def crowded(slices: Sequence[Slice]) -> list[list[int]]:
    """Which slices of one orientation share a place; groups of two or more, as indices, in order of place."""
    places = places_mm(slices)
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    wide = steps[steps > 1e-3]
    near = SAME_PLACE * max(float(np.median(wide)) if wide.size else 0.1, 0.1)
    found = np.split(order, np.flatnonzero(steps > near) + 1)
    return [[int(place) for place in together] for together in found if len(together) > 1]


def span(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], Grid]:
    """Slices of one size and orientation, one at each place, put in order; and their grid.

    Raises:
        ImageError: fewer than two slices, a missing slice, uneven steps, or slices beside the line of the others.
    """
    if len(slices) < 2:
        raise ImageError(f"expected a series of at least 2 slices, got {len(slices)}")
    first = slices[0]
    if abs(np.linalg.norm(first.normal) - 1) > 0.01:
        raise ImageError(f"expected ImageOrientationPatient as two unit vectors at right angles, got {first.axes}")
    ordered = sorted(slices, key=lambda slice_: float(slice_.position_mm @ first.normal))
    positions = np.array([slice_.position_mm for slice_ in ordered])
    index = np.arange(len(ordered))
    # places are judged, not differences: those of slices every 0.625 mm, written with one decimal, are 0.6 or 0.7 mm
    step, origin = np.polyfit(index, positions, 1)  # tilted against the normal by a gantry tilt
    beside = positions - origin - index[:, None] * step
    usual = float(step @ first.normal)
    along = np.abs(beside @ first.normal)
    if along.max() > max(UNEVEN * usual, min(_rounding_mm(positions), ROUNDED * usual)):
        raise ImageError(_uneven(ordered, positions @ first.normal))
    strayed = np.linalg.norm(beside, axis=1)
    if strayed.max() > max(UNEVEN * max(usual, *first.spacing_mm), along.max() * 2, _rounding_mm(positions)):
        worst = ordered[int(strayed.argmax())]
        raise ImageError(f"expected slices in a straight line, got {worst.instance} {strayed.max():.2f} mm beside it")
    affine = np.eye(4)
    affine[:3, 0] = first.axes[0] * first.spacing_mm[0]
    affine[:3, 1] = first.axes[1] * first.spacing_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return tuple(ordered), Grid((*first.size, len(ordered)), TO_RAS @ affine)


def _rounding_mm(positions: Array) -> float:
    """How far a position may be from the true one, by the number of decimals that all are written with."""
    for decimals in range(4):
        if np.abs(positions - positions.round(decimals)).max() < 1e-6:
            return 0.6 * float(10**-decimals)  # half a unit, and what it moves the line
    return 0.0


def _uneven(slices: Sequence[Slice], places: Array) -> str:
    """Where the steps are not even, in words."""
    steps = np.diff(places)
    usual = float(np.median(steps))
    worst = int(np.abs(steps - usual).argmax())
    low, high = slices[worst].position_mm.round(2).tolist(), slices[worst + 1].position_mm.round(2).tolist()
    lost = round(steps[worst] / usual) - 1
    whole = lost > 0 and abs(steps[worst] / usual - lost - 1) < 0.1 * (lost + 1)
    what = f"{lost} missing" if whole else "uneven steps"
    return (
        f"expected a slice every {usual:.2f} mm, got {steps[worst]:.2f} mm between {low} and {high} mm: {what}; send "
        "the series to the archive again"
    )
