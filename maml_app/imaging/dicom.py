"""A DICOM series as a volume: slices put in order by their geometry, values in HU, SUV or as stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from maml_app.errors import ImageError
from maml_app.imaging.lenient import lenient
from maml_app.imaging.pixels import frame_values, stored_pixels, tells_no_scale, unusable
from maml_app.imaging.planes import TO_RAS, Slice, Stack, planes
from maml_app.imaging.sorting import sort_out
from maml_app.imaging.suv import suv_factor
from maml_app.imaging.volume import Array, Volume

FAT_HU = -90.0  # every CT of a body reaches below this
__all__ = ["TO_RAS", "Slice", "Stack", "planes", "read_series", "stack"]


def stack(images: Sequence[Dataset], key: str = "") -> Stack:
    """Order the slices of a series by their place in space. Headers are enough, pixels are not looked at.

    Images that are there twice (one SOPInstanceUID) count once; localizers and what has no place are left out.

    Args:
        key: which part of a series that holds several volumes (see `sorting.Part.key`).

    Raises:
        ImageError: fewer than two slices, several volumes and no `key`, two images at one place, a missing slice, or
            uneven steps; the message says where.
    """
    with lenient():
        found = sort_out(images)
        return found.part(key).stack(found.notes)


def read_series(images: Sequence[Dataset], key: str = "") -> tuple[Volume, Stack]:
    """The volume of a series (or a part of it, as in `stack`), float32: CT in HU, PET in SUV, MR as stored.

    Raises:
        ImageError: as `stack`; colour or undecodable pixels; CT that is not in HU; slices some of which lack their
            scale; a PET series that does not tell its SUV; two images at one place with different pixels.
    """
    with lenient():
        found = sort_out(images)
        order = found.part(key).stack(found.notes)
        used = [(images[part.image], part.frame) for part in order.slices]
        if problem := unusable(used):
            raise ImageError(problem)
        scale = 1.0
        if used[0][0].get("Modality") == "PT":
            scale = suv_factor([image for image, _ in used], [images[index] for index in found.images])
        voxels = np.empty(order.grid.shape, np.float32)
        decoded: dict[int, Array] = {}
        for place, part in enumerate(order.slices):
            if part.image not in decoded:
                decoded = {part.image: stored_pixels(images[part.image])}  # one at a time: it may be a whole series
            plane = frame_values(decoded[part.image], images[part.image], part.frame)
            with np.errstate(over="ignore"):  # told below
                voxels[:, :, place] = plane.T * scale
        _check_repeats(order, images)
    if not np.isfinite(voxels).all():
        raise ImageError("expected finite pixel values, got NaN or infinite ones after rescaling")
    if any(tells_no_scale(image, frame) for image, frame in used) and voxels.min() > FAT_HU:
        raise ImageError(
            f"expected CT with RescaleSlope and RescaleIntercept to Hounsfield units, got neither, and values from "
            f"{voxels.min():g} to {voxels.max():g}, without air or fat"
        )
    return Volume(voxels, order.grid.affine), order


def _check_repeats(order: Stack, images: Sequence[Dataset]) -> None:
    """Two images at one place must be one image, sent twice. Raises ImageError."""
    for first, second in order.repeats:
        pixels = [
            frame_values(stored_pixels(images[slice_.image]), images[slice_.image], slice_.frame)
            for slice_ in (first, second)
        ]
        if not np.array_equal(pixels[0], pixels[1]):
            raise ImageError(
                f"expected one image at each place, got two at {len(order.repeats)} of {len(order.slices)}, the "
                f"first at {first.position_mm.round(2).tolist()} mm ({first.instance} and {second.instance}) with "
                "different pixels; delete one of them"
            )
