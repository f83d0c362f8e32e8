"""A DICOM series as a volume: slices put in order by their geometry, values in HU, SUV or as stored.

Voxel axes are column, row, slice (rising along the normal of the slices), the affine leads to RAS mm. A gantry-tilted
stack is a sheared affine, as it is in space (PS3.3 C.7.6.2.1.1 and C.7.6.16.2.3 to .4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import apply_modality_lut

from maml_app.cases.series import seconds
from maml_app.errors import ImageError
from maml_app.imaging.volume import Array, Grid, Volume

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # archives hold overlong values; no matter
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's patient axes run to L, P, S
ALIKE = 1e-3  # orientations whose cosines agree this far are one
UNEVEN = 0.05  # a slice may lie this part of the usual step away from where it is expected


@dataclass(frozen=True)
class Slice:
    """One image plane: where it is stored (`frame` counts from 0), and its geometry in DICOM's patient axes, mm."""

    instance: str
    frame: int
    image: int
    position_mm: Array
    axes: Array  # (2, 3): along the columns, then along the rows
    spacing_mm: tuple[float, float]  # between columns, between rows


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of the volume's third axis, and the grid they span."""

    slices: tuple[Slice, ...]
    grid: Grid

    @property
    def instances(self) -> list[str]:
        """SOPInstanceUID of each slice, along the third axis."""
        return [one.instance for one in self.slices]

    @property
    def names(self) -> list[str]:
        """Each slice as WADO-RS addresses it, `INSTANCE/frames/NUMBER`, along the third axis."""
        return [f"{one.instance}/frames/{one.frame + 1}" for one in self.slices]


def _group(image: Dataset, frame: int, name: str) -> Dataset | None:
    """A functional group of a multi-frame image, of the frame or shared by all."""
    for keyword, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = image.get(keyword)
        if groups and len(groups) > place and groups[place].get(name):
            found: Dataset = groups[place].get(name)[0]
            return found
    return None


def planes(image: Dataset, index: int = 0) -> list[Slice]:
    """The planes of one image, a frame each; `index` is what `Slice.image` will say. Raises ImageError."""
    where = f"image {image.get('SOPInstanceUID', '(no UID)')}"
    result = []
    for frame in range(int(image.get("NumberOfFrames") or 1)):
        position = _group(image, frame, "PlanePositionSequence") or image
        orientation = _group(image, frame, "PlaneOrientationSequence") or image
        measures = _group(image, frame, "PixelMeasuresSequence") or image
        try:
            place = np.array([float(value) for value in position.ImagePositionPatient])
            cosines = np.array([float(value) for value in orientation.ImageOrientationPatient]).reshape(2, 3)
            rows, columns = (float(value) for value in measures.PixelSpacing)
        except (AttributeError, TypeError, ValueError) as error:
            raise ImageError(
                f"{where}: expected ImagePositionPatient, ImageOrientationPatient and PixelSpacing, got: {error}"
            ) from None
        result.append(Slice(str(image.SOPInstanceUID), frame, index, place, cosines, (columns, rows)))
    return result


def stack(images: Sequence[Dataset]) -> Stack:
    """Order the slices of a series by their place in space. Headers are enough, pixels are not looked at.

    Images that are there twice (one SOPInstanceUID) count once.

    Raises:
        ImageError: fewer than two slices, slices of several sizes, orientations or spacings, two images at one place,
            a missing slice, or uneven steps; the message says where.
    """
    unique = {str(image.get("SOPInstanceUID")): number for number, image in reversed(list(enumerate(images)))}
    slices = [one for number in sorted(unique.values()) for one in planes(images[number], number)]
    if len(slices) < 2:
        raise ImageError(f"expected a series of at least 2 slices, got {len(slices)}")
    sizes = {(int(images[n].Columns), int(images[n].Rows)) for n in unique.values()}
    if len(sizes) > 1:
        raise ImageError(f"expected slices of one size, got {sorted(sizes)} (columns, rows); is one a localizer?")
    first = slices[0]
    for one in slices:
        if np.abs(one.axes - first.axes).max() > ALIKE:
            raise ImageError(
                f"expected slices of one orientation, got {first.axes.round(3).tolist()} and "
                f"{one.axes.round(3).tolist()}; is it a localizer or a radial series?"
            )
        if not np.allclose(one.spacing_mm, first.spacing_mm, rtol=1e-3):
            raise ImageError(f"expected one PixelSpacing, got {first.spacing_mm} and {one.spacing_mm} mm")
    normal = np.cross(first.axes[0], first.axes[1])
    if abs(np.linalg.norm(normal) - 1) > 0.01:
        raise ImageError(f"expected ImageOrientationPatient as two unit vectors at right angles, got {first.axes}")
    slices.sort(key=lambda one: float(one.position_mm @ normal))
    return Stack(tuple(slices), _grid(slices, normal, *sizes))


def _grid(slices: Sequence[Slice], normal: Array, size: tuple[int, int]) -> Grid:
    positions = np.array([one.position_mm for one in slices])
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps))
    for index, step in enumerate(steps):
        low, high = slices[index], slices[index + 1]
        if step < 0.01 * max(usual, 0.1):
            raise ImageError(
                f"expected one image at each place, got two at {low.position_mm.round(2).tolist()} mm ({low.instance} "
                f"and {high.instance}): several echoes, times or b-values in one series; leave it out by hand"
            )
        if abs(step - usual) > UNEVEN * usual:
            between = f"{low.position_mm.round(2).tolist()} and {high.position_mm.round(2).tolist()} mm"
            lost = round(step / usual) - 1
            what = f"{lost} missing" if lost > 0 and abs(step / usual - lost - 1) < 2 * UNEVEN else "uneven steps"
            raise ImageError(
                f"expected a slice every {usual:.2f} mm, got {step:.2f} mm between {between}: {what}; send the series "
                "to the archive again"
            )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)  # tilted against the normal by a gantry tilt
    strayed = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1)
    if strayed.max() > UNEVEN * max(usual, max(slices[0].spacing_mm)):
        worst = slices[int(strayed.argmax())]
        raise ImageError(f"expected slices in a straight line, got {worst.instance} {strayed.max():.2f} mm beside it")
    affine = np.eye(4)
    affine[:3, 0] = slices[0].axes[0] * slices[0].spacing_mm[0]
    affine[:3, 1] = slices[0].axes[1] * slices[0].spacing_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return Grid((size[0], size[1], len(slices)), TO_RAS @ affine)


def read_series(images: Sequence[Dataset]) -> tuple[Volume, Stack]:
    """The volume of a series, float32: CT in HU, PET in body-weight SUV, MR as stored.

    Raises:
        ImageError: as `stack`; colour or undecodable pixels; a PET series that does not tell its SUV.
    """
    order = stack(images)
    decoded: dict[int, Array] = {}
    voxels = np.empty(order.grid.shape, np.float32)
    scales: dict[int, float] = {}
    for place, one in enumerate(order.slices):
        image = images[one.image]
        if one.image not in decoded:
            decoded = {one.image: _pixels(image)}  # one image at a time: a multi-frame one is a whole series
            scales[one.image] = _suv_factor(image) if image.get("Modality") == "PT" else 1.0
        plane = _rescaled(decoded[one.image][one.frame], image, one.frame)
        with np.errstate(over="ignore"):  # told below
            voxels[:, :, place] = plane.T * scales[one.image]
    if not np.isfinite(voxels).all():
        raise ImageError("expected finite pixel values, got NaN or infinite ones after rescaling")
    return Volume(voxels, order.grid.affine), order


def _pixels(image: Dataset) -> Array:
    """Stored values (frames, rows, columns)."""
    where = f"image {image.SOPInstanceUID}"
    if int(image.get("SamplesPerPixel", 1)) != 1:
        raise ImageError(f"{where}: expected grey values, got colour ({image.get('PhotometricInterpretation')})")
    try:
        pixels = np.asarray(image.pixel_array)
    except Exception as error:  # whatever the decoders raise: any of them means that these pixels cannot be had
        syntax = getattr(getattr(image, "file_meta", None), "TransferSyntaxUID", None)
        raise ImageError(
            f"{where}: expected pixels that can be decoded, got {getattr(syntax, 'name', syntax)}: {error}"
        ) from None
    return pixels.reshape(-1, *pixels.shape[-2:])


def _rescaled(pixels: Array, image: Dataset, frame: int) -> Array:
    """Modality values of one frame, PS3.3 C.11.1 and C.7.6.16.2.9."""
    group = _group(image, frame, "PixelValueTransformationSequence")
    return np.asarray(apply_modality_lut(pixels, group if group is not None else image), dtype=np.float64)


def _suv_factor(image: Dataset) -> float:
    """What turns a PET image's values into body-weight SUV (g/ml), by Units (0054,1001).

    Follows QIBA's vendor-neutral calculation: SUV = Bq/ml * weight in g / dose at the time of the scan in Bq.

    Raises:
        ImageError: units that cannot be converted, or an attribute that the conversion needs is missing.
    """
    units = str(image.get("Units", "")).upper()
    if units == "GML":
        kind = str(image.get("SUVType", "") or "BW").upper()
        if kind != "BW":
            raise ImageError(f"expected PET in body-weight SUV, got SUVType {kind}; ask for SUVbw or Bq/ml")
        return 1.0
    if units == "CNTS":
        # Philips: (7053,xx00) holds counts -> SUV
        try:
            block: Any = image.private_block(0x7053, "Philips PET Private Group")
            factor = float(block[0x00].value)
        except (KeyError, TypeError, ValueError):
            factor = 0.0
        if factor <= 0:
            raise ImageError("expected PET counts with Philips' SUV factor (7053,1000), got none; send Bq/ml instead")
        return factor
    if units != "BQML":
        raise ImageError(f"expected PET Units GML, BQML or CNTS, got {units or 'none'}")
    infos = image.get("RadiopharmaceuticalInformationSequence")
    info = infos[0] if infos else Dataset()
    weight_kg = _positive(image, "PatientWeight")
    dose_bq = _positive(info, "RadionuclideTotalDose")
    correction = str(image.get("DecayCorrection", "")).upper()
    if correction == "ADMIN":
        return weight_kg * 1000 / dose_bq
    if correction != "START":
        raise ImageError(f"expected PET with DecayCorrection START or ADMIN, got {correction or 'none'}")
    half_life_s = _positive(info, "RadionuclideHalfLife")
    elapsed_s = _scan_start(image) - _injection(info)
    if elapsed_s < 0:
        elapsed_s += 86400  # injected before midnight
    if elapsed_s > 12 * 3600:
        raise ImageError(f"expected a PET scan within 12 h of the injection, got {elapsed_s / 3600:.1f} h")
    return weight_kg * 1000 / (dose_bq * math.exp(-math.log(2) * elapsed_s / half_life_s))


def _scan_start(image: Dataset) -> float:
    """Seconds since midnight to which START corrects: the series time, unless it was rewritten after the scan."""
    series, acquired = seconds(str(image.get("SeriesTime", ""))), seconds(str(image.get("AcquisitionTime", "")))
    if series is not None and (acquired is None or series <= acquired):
        return series
    if acquired is None:
        raise ImageError("expected PET with SeriesTime or AcquisitionTime, got neither: SUV cannot be calculated")
    return acquired


def _injection(info: Dataset) -> float:
    full = str(info.get("RadiopharmaceuticalStartDateTime", "") or "")
    began = seconds(full[8:].split("+")[0].split("-")[0]) if full else None
    began = began if began is not None else seconds(str(info.get("RadiopharmaceuticalStartTime", "")))
    if began is None:
        raise ImageError("expected PET with RadiopharmaceuticalStartTime, got none: SUV cannot be calculated")
    return began


def _positive(source: Dataset, keyword: str) -> float:
    try:
        value = float(source.get(keyword) or 0)
    except (TypeError, ValueError):
        value = 0.0
    if not value > 0:
        raise ImageError(f"expected PET with {keyword} above 0, got {source.get(keyword)!r}: SUV cannot be calculated")
    return value
