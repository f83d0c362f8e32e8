"""From stored pixels to values: only the stored bits count, padding lies outside, and CT is in Hounsfield units.

PS3.3 C.7.6.3.1 (Image Pixel), C.7.5.1.1.2 (Pixel Padding), C.11.1 (Modality LUT), C.8.2.1 (CT Image).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import apply_modality_lut

from maml_app.errors import ImageError
from maml_app.imaging.planes import attribute, group
from maml_app.imaging.volume import Array

AIR_HU = -1024.0  # what padding of CT becomes
BODY_HU = (-900.0, 3071.0)  # padding within this range could as well be tissue


def stored_pixels(image: Dataset) -> Array:
    """Pixels (frames, rows, columns) as the file holds them, nothing masked yet.

    Raises:
        ImageError: colour, or pixels that cannot be decoded.
    """
    if problem := _colour(image):
        raise ImageError(problem)
    try:
        pixels = np.asarray(image.pixel_array)
    except Exception as error:  # whatever the decoders raise: any of them means that these pixels cannot be had
        syntax = getattr(getattr(image, "file_meta", None), "TransferSyntaxUID", None)
        raise ImageError(
            f"image {image.SOPInstanceUID}: expected pixels that can be decoded, got "
            f"{getattr(syntax, 'name', syntax)}: {error}"
        ) from None
    return pixels.reshape(-1, *pixels.shape[-2:])


def _colour(image: Dataset) -> str:
    """Why an image has no grey values, by its header; '' if it has."""
    kind = str(image.get("PhotometricInterpretation", "") or "MONOCHROME2")
    if _number(image.get("SamplesPerPixel")) in (None, 1) and kind.startswith("MONOCHROME"):
        return ""
    return f"image {image.get('SOPInstanceUID')}: expected grey values, got colour ({kind})"


class Bits:
    """How an image stores its numbers: how many bits count, where they lie, whether the highest is a sign."""

    def __init__(self, image: Dataset) -> None:
        self.allocated = int(image.get("BitsAllocated") or 16)
        stored = int(image.get("BitsStored") or self.allocated)
        self.stored = stored if 1 <= stored <= self.allocated else self.allocated
        high = image.get("HighBit")
        high = self.stored - 1 if high in (None, "") else int(high)
        compressed = bool(
            getattr(getattr(getattr(image, "file_meta", None), "TransferSyntaxUID", None), "is_compressed", 0)
        )
        # decoders hand the value itself; a high bit below the stored ones cannot be
        self.shift = 0 if compressed or not self.stored - 1 <= high < self.allocated else high + 1 - self.stored
        self.signed = int(image.get("PixelRepresentation") or 0) == 1

    def values(self, pixels: Array) -> Array:
        """The numbers in the stored bits, int64; whatever else lies in the cells (overlays, remains) is dropped."""
        return _as_number(pixels.astype(np.int64) >> self.shift, self.stored, self.signed)

    def cells(self, pixels: Array) -> Array:
        """The whole cells as numbers, unused bits included."""
        return _as_number(pixels.astype(np.int64), self.allocated, self.signed)

    def holds(self, value: int) -> bool:
        """Whether the stored bits can hold a number."""
        return bool(_as_number(np.array(value, np.int64), self.stored, self.signed) == value)


def _as_number(pixels: Array, bits: int, signed: bool) -> Array:
    """The lowest bits as a number, in two's complement where signed."""
    low = pixels & ((1 << bits) - 1)
    return np.asarray(np.where(low >= 1 << (bits - 1), low - (1 << bits), low) if signed else low)


def frame_values(pixels: Array, image: Dataset, frame: int) -> Array:
    """One frame (rows, columns) of `stored_pixels` as float64: CT in HU, others in the units that they are in.

    Raises:
        ImageError: CT that is not in HU.
    """
    if pixels.dtype.kind == "f":
        return _rescaled(pixels[frame], image, frame)
    bits = Bits(image)
    stored = bits.values(pixels[frame])
    values = _rescaled(stored, image, frame)
    padding = padded(pixels[frame], stored, image, bits)
    if padding.any():
        outside = AIR_HU if image.get("Modality") == "CT" else 0.0
        if image.get("Modality") != "CT" or _is_outside(padding, values):
            values = np.where(padding, outside, values)
    return values


def padded(cells: Array, stored: Array, image: Dataset, bits: Bits) -> Array:
    """Which pixels are padding: equal to PixelPaddingValue, or between it and PixelPaddingRangeLimit."""
    first = _number(image.get("PixelPaddingValue"))
    if first is None:
        return np.zeros(stored.shape, bool)
    last = _number(image.get("PixelPaddingRangeLimit"))
    ends = np.array([first, first if last is None else last], np.int64)
    low, high = sorted(_as_number(ends, bits.allocated, bits.signed).tolist())
    # a value that the stored bits cannot hold was written over whole cells
    among = stored if bits.holds(low) and bits.holds(high) else bits.cells(cells)
    return np.asarray((among >= low) & (among <= high))


def _number(value: Any) -> int | None:
    """A whole number, also one whose VR was lost on the way and that came as bytes."""
    if isinstance(value, bytes) and len(value) in (2, 4):
        return int.from_bytes(value, "little")
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _is_outside(padding: Array, values: Array) -> bool:
    """Whether padding of a CT image is what lies outside its field of view, rather than tissue of the same value.

    Headers name 0 where 0 HU is water. What can be tissue counts as padding only if a corner of the image holds it.
    """
    held = values[padding]
    tissue = (held > BODY_HU[0]) & (held < BODY_HU[1])
    return not tissue.all() or bool(padding[[0, 0, -1, -1], [0, -1, 0, -1]].any())


def _rescaled(stored: Array, image: Dataset, frame: int) -> Array:
    """Modality values of one frame, PS3.3 C.11.1 and C.7.6.16.2.9."""
    transformation = group(image, frame, "PixelValueTransformationSequence")
    source = transformation if transformation is not None else image
    if "ModalityLUTSequence" not in source and stored.dtype.kind != "f":
        slope, intercept = (_float(source, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
        return stored * (1.0 if slope is None else slope) + (intercept or 0.0)
    return np.asarray(apply_modality_lut(stored, source), dtype=np.float64)


def _float(source: Dataset, keyword: str) -> float | None:
    value = source.get(keyword)
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise ImageError(f"expected {keyword} as a number, got {value!r}") from None


def unusable(slices: Sequence[tuple[Dataset, int]]) -> str:
    """Why the slices of a volume (image and frame) cannot become values, by their headers; '' if they may."""
    told = (_colour(image) or no_hounsfield(image, frame) for image, frame in slices)
    return next(filter(None, told), "") or _scaled_in_part(slices)


def no_hounsfield(image: Dataset, frame: int) -> str:
    """Why the values of a frame of a CT image are not in Hounsfield units, by its header; '' if they are or may be."""
    if image.get("Modality") != "CT":
        return ""
    kind = str(attribute(image, frame, "RescaleType") or "").strip().upper()
    if not kind:
        lut = attribute(image, frame, "ModalityLUTSequence")
        kind = str(lut[0].get("ModalityLUTType", "")).strip().upper() if lut else ""
    if kind not in ("", "HU", "US"):  # US: unspecified, as some writers put it for everything
        return f"expected CT in Hounsfield units, got RescaleType {kind}: it is another map of the examination"
    return ""


def tells_no_scale(image: Dataset, frame: int) -> bool:
    """Whether a frame of CT lacks slope and intercept (type 1): only its values can tell whether they are in HU."""
    return image.get("Modality") == "CT" and not _scale(image, frame)


def _scale(image: Dataset, frame: int) -> tuple[str, ...]:
    """Which of the attributes that lead from stored values to modality values a frame has; a LUT stands for both."""
    names = ("RescaleSlope", "RescaleIntercept")
    if attribute(image, frame, "ModalityLUTSequence"):
        return names
    return tuple(name for name in names if attribute(image, frame, name) not in (None, ""))


def _scaled_in_part(slices: Sequence[tuple[Dataset, int]]) -> str:
    """What is wrong with a CT or PET volume of which only some slices say how they are scaled; '' if nothing is.

    No value gives that away: those without lie among the others' values, 1024 HU too high.
    """
    if slices[0][0].get("Modality") not in ("CT", "PT"):
        return ""
    found: dict[tuple[str, ...], list[str]] = {}
    for image, frame in slices:
        found.setdefault(_scale(image, frame), []).append(f"{image.get('SOPInstanceUID')}")
    if len(found) == 1:
        return ""
    got = ", ".join(
        f"{' and '.join(names) or 'neither'} in {len(images)} (as {images[0]})" for names, images in found.items()
    )
    return (
        f"expected RescaleSlope and RescaleIntercept in all {len(slices)} slices, got {got}: they are not on one "
        "scale; send the series to the archive again"
    )
