"""How a label map is scored against the truth.

What is empty in both truth and answer is not scored (None); what is empty in one of them scores as wrong as can be.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from maml_app.imaging.volume import Array

# MONAI warns of its own call, once a process
warnings.filterwarnings("ignore", message="monai.metrics.utils get_mask_edges")

TOUCH = np.ones((3, 3, 3))  # voxels that share a corner belong to one lesion
FOUND = 0.1  # share of a lesion that must be marked


def dice(prediction: Array, truth: Array, values: Sequence[int]) -> float | None:
    """Dice of the union of `values`: 2 |A and B| / (|A| + |B|). Both empty: None, there is nothing to score."""
    one, two = np.isin(prediction, list(values)), np.isin(truth, list(values))
    size = int(one.sum()) + int(two.sum())
    return None if size == 0 else 2 * int((one & two).sum()) / size


def dice_scores(prediction: Array, truth: Array, scored: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
    """Dice by the names of TaskSpec.scored."""
    return {name: dice(prediction, truth, values) for name, values in scored.items()}


def thorough_scores(
    prediction: Array,
    truth: Array,
    scored: Mapping[str, Sequence[int]],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> dict[str, dict[str, float | None]]:
    """By the names of TaskSpec.scored, for label maps (X, Y, Z) of one grid:

    dice; nsd: normalised surface Dice at `tolerance_mm` (Nikolov, arXiv 1809.04430), empty in one: 0; hd95_mm: the 95th
    percentile of the Hausdorff distance, empty in one: the image's diagonal; lesions: connected parts of the truth;
    found: of these, marked by a tenth at least; false_positives: parts of the answer that touch no truth; volume_ml;
    truth_ml; volume_error_ml: answer minus truth.
    """
    return {
        name: {
            "dice": dice(prediction, truth, values),
            **_surfaces(np.isin(prediction, list(values)), np.isin(truth, list(values)), spacing_mm, tolerance_mm),
            **_lesions(np.isin(prediction, list(values)), np.isin(truth, list(values))),
            **_volumes(np.isin(prediction, list(values)), np.isin(truth, list(values)), spacing_mm),
        }
        for name, values in scored.items()
    }


def _surfaces(one: Array, two: Array, spacing_mm: Sequence[float], tolerance_mm: float) -> dict[str, float | None]:
    if not one.any() and not two.any():
        return {"nsd": None, "hd95_mm": None}
    if not one.any() or not two.any():
        diagonal = math.sqrt(sum((side * edge) ** 2 for side, edge in zip(one.shape, spacing_mm, strict=True)))
        return {"nsd": 0.0, "hd95_mm": diagonal}
    # scipy, which these need, is not there on every machine that trains
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    masks = [torch.from_numpy(mask)[None, None].float() for mask in (one, two)]
    spacing = [float(edge) for edge in spacing_mm]
    nsd = compute_surface_dice(*masks, [tolerance_mm], include_background=True, spacing=spacing)
    hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
    return {"nsd": float(nsd), "hd95_mm": float(hd95)}


def _lesions(prediction: Array, truth: Array) -> dict[str, float | None]:
    from scipy import ndimage

    lesions, count = ndimage.label(truth, TOUCH)
    sizes = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
    marked = np.bincount(lesions[prediction], minlength=count + 1)[1:]
    answers, marks = ndimage.label(prediction, TOUCH)
    touching = len(set(np.unique(answers[truth])) - {0})
    return {
        "lesions": count,
        "found": int((marked >= np.maximum(1, FOUND * sizes)).sum()),
        "false_positives": marks - touching,
    }


def _volumes(prediction: Array, truth: Array, spacing_mm: Sequence[float]) -> dict[str, float | None]:
    voxel_ml = math.prod(spacing_mm) / 1000
    volume, true = float(prediction.sum()) * voxel_ml, float(truth.sum()) * voxel_ml
    return {"volume_ml": volume, "truth_ml": true, "volume_error_ml": volume - true}


def bootstrap_interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over cases (Efron 1979), resampled with a fixed seed; None below 2 cases."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    means = np.asarray(values)[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what could be scored; None if nothing could."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
