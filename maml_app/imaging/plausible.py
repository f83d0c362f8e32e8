"""Whether voxels can be what a modality says that they are: Hounsfield units, SUV, or an MR image with a content."""

from __future__ import annotations

import numpy as np

from maml_app.cases.spec import Modality
from maml_app.imaging.volume import Array

SUV_PLAUSIBLE = 50.0  # a 99th percentile above this is no SUV: body weight SUV of tissue stays below it
HUNDREDTHS_PLAUSIBLE = 3000.0  # of files that keep hundredths of SUV; beyond it is Bq/ml
NEGATIVE_SHARE = 0.02  # of PET voxels may be below 0, by noise of the reconstruction
FAT_HU = -90.0  # every CT of a body, and every window for soft tissue, reaches below this
SOFT_HU = (-150.0, 300.0)
SOFT_SHARE = 0.001  # of CT voxels are soft tissue, at least
AIR_HU = -1024.0  # what lies below is filled in, or noise
HIGHEST_HU = 31_000.0  # the scales that scanners extend for metal end below it
WRAPPED_SHARE = 0.001  # of CT voxels may lie above it
SAME_SHARE = 0.999  # an image with one value in so many voxels shows nothing


def suv_scale(values: Array) -> float:
    """Factor that turns stored PET values into SUV: 1, or 0.01 for files that keep hundredths of SUV as integers.

    Raises:
        ValueError: neither is plausible, so the values are probably Bq/ml.
    """
    high = float(np.percentile(values, 99))
    if high <= SUV_PLAUSIBLE:
        return 1.0
    if high <= HUNDREDTHS_PLAUSIBLE:
        return 0.01
    raise ValueError(
        f"expected PET in SUV (or hundredths of SUV), got a 99th percentile of {high:g}; "
        "convert Bq/ml to body-weight SUV first"
    )


def implausible(values: Array, modality: Modality) -> str:
    """Why the voxels cannot be of this modality, in words; '' if they can."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"every voxel is {low:g}"
    middle = float(np.median(values))
    others = int(np.count_nonzero(values != middle))
    if others < (1 - SAME_SHARE) * values.size:
        return f"all but {others} of {values.size} voxels are {middle:g}"
    if modality.kind == "CT":
        return _no_hounsfield(values, low, high)
    if modality.kind == "PET":
        return _no_suv(values)
    return ""


def _no_hounsfield(values: Array, low: float, high: float) -> str:
    if low < AIR_HU:
        low = float(values.min(where=values >= AIR_HU, initial=high))
    soft = float(np.mean((values > SOFT_HU[0]) & (values < SOFT_HU[1])))
    wrapped = float(np.mean(values > HIGHEST_HU))
    if wrapped > WRAPPED_SHARE:
        return (
            f"expected CT in Hounsfield units, got {wrapped:.1%} of voxels above {HIGHEST_HU:g}: what lay below zero "
            "seems to have wrapped round; write it again as signed numbers"
        )
    if low > FAT_HU:
        return (
            f"expected CT in Hounsfield units, got values from {low:g} to {high:g}, without air or fat; write it again "
            "with the scanner's slope and intercept"
        )
    if soft < SOFT_SHARE:
        return (
            f"expected CT in Hounsfield units, got {soft:.2%} of voxels between {SOFT_HU[0]:g} and {SOFT_HU[1]:g} HU, "
            "where soft tissue is; write it again with the scanner's slope and intercept"
        )
    return ""


def _no_suv(values: Array) -> str:
    try:
        scale = suv_scale(values)
    except ValueError as error:
        return str(error)
    high = float(np.percentile(values, 99)) * scale
    negative = float(np.mean(values * scale < -0.05 * max(high, 1.0)))
    if negative > NEGATIVE_SHARE:
        return f"expected PET in SUV, which is never negative, got {negative:.0%} of voxels below 0"
    if float(values.max()) * scale <= 1.0:
        return f"expected PET in SUV, got nothing above {float(values.max()) * scale:g}: it seems to be scaled to 0..1"
    return ""
