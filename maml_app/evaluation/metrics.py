"""How a label map is scored against the truth.

What is empty in both truth and answer is not scored (None); what is empty in one of them scores as wrong as can be.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maml_app.imaging.volume import Array, Volume

TOUCH = np.ones((3, 3, 3))  # voxels that share a corner belong to one lesion
FOUND = 0.1  # share of a lesion that must be marked


def dice(prediction: Array, truth: Array, values: Sequence[int]) -> float | None:
    """Dice of the union of `values`: 2 |A and B| / (|A| + |B|). Both empty: None, there is nothing to score."""
    first, second = np.isin(prediction, list(values)), np.isin(truth, list(values))
    size = int(first.sum()) + int(second.sum())
    return None if size == 0 else 2 * int((first & second).sum()) / size


def dice_scores(prediction: Array, truth: Array, scored: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
    """Dice by the names of TaskSpec.scored."""
    return {name: dice(prediction, truth, values) for name, values in scored.items()}


@dataclass(frozen=True)
class Measures:
    """How one structure of a label map compares with the truth.

    Attributes:
        dice: None if it is in neither.
        nsd: normalised surface Dice (Nikolov, arXiv 1809.04430); empty in one: 0.
        hd95_mm: the 95th percentile of the Hausdorff distance; empty in one: the image's diagonal.
        lesions: connected parts of the truth; `found`: of these, marked by a tenth at least.
        false_positives: connected parts of the answer that touch no truth.
        volume_error_ml: answer minus truth.
    """

    dice: float | None
    nsd: float | None
    hd95_mm: float | None
    lesions: int
    found: int
    false_positives: int
    volume_ml: float
    truth_ml: float
    volume_error_ml: float


def measure(
    prediction: Array, truth: Volume, scored: Mapping[str, Sequence[int]], tolerance_mm: float
) -> dict[str, Measures]:
    """By the names of TaskSpec.scored, for a label map (X, Y, Z) on the truth's grid; `tolerance_mm` is for `nsd`."""
    found = {}
    for name, values in scored.items():
        answer, true = np.isin(prediction, list(values)), np.isin(truth.voxels, list(values))
        nsd, hd95_mm = _surfaces(answer, true, truth.grid.spacing_mm, tolerance_mm)
        lesions, hits, false_positives = _lesions(answer, true)
        answer_ml, true_ml = (float(mask.sum()) * truth.grid.voxel_ml for mask in (answer, true))
        found[name] = Measures(
            dice(prediction, truth.voxels, values),
            nsd,
            hd95_mm,
            lesions,
            hits,
            false_positives,
            answer_ml,
            true_ml,
            answer_ml - true_ml,
        )
    return found


def _surfaces(
    first: Array, second: Array, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float | None, float | None]:
    if not first.any() and not second.any():
        return None, None
    if not first.any() or not second.any():
        diagonal = math.sqrt(sum((side * edge) ** 2 for side, edge in zip(first.shape, spacing_mm, strict=True)))
        return 0.0, diagonal
    # scipy, which these need, is not there on every machine that trains
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    masks = [torch.from_numpy(mask)[None, None].float() for mask in (first, second)]
    spacing = [float(edge) for edge in spacing_mm]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="monai.metrics.utils get_mask_edges")  # MONAI warns of its own call
        nsd = compute_surface_dice(*masks, [tolerance_mm], include_background=True, spacing=spacing)
        hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
    return float(nsd), float(hd95)


def _lesions(prediction: Array, truth: Array) -> tuple[int, int, int]:
    """Connected parts of the truth, those of them that are marked, and parts of the answer that touch no truth."""
    from scipy import ndimage

    lesions, count = ndimage.label(truth, TOUCH)
    sizes = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
    marked = np.bincount(lesions[prediction], minlength=count + 1)[1:]
    answers, marks = ndimage.label(prediction, TOUCH)
    touching = len(set(np.unique(answers[truth])) - {0})
    return count, int((marked >= np.maximum(1, FOUND * sizes)).sum()), marks - touching


def bootstrap_interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over cases (Efron 1979), resampled with a fixed seed; None below 2 cases."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    means = np.asarray(values)[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def nested_mean(table: Array, weights: Array) -> Array:
    """Mean over subsets of the means over structures of the means over cases: (D,), nan where nothing is scored.

    Args:
        table: Dice (C, S, N) of cases, subsets and structures; nan for what has no score, which counts nowhere.
        weights: (D, C), how often each case counts.
    """
    known = ~np.isnan(table)
    total = weights @ np.where(known, table, 0.0).reshape(len(table), -1)
    with np.errstate(invalid="ignore"):  # 0 / 0
        means: Array = (total / (weights @ known.reshape(len(table), -1))).reshape(-1, *table.shape[1:])
        for _ in range(2):
            means = np.nansum(means, axis=-1) / (~np.isnan(means)).sum(axis=-1)
    return means


def estimate(
    table: Array, patients: Sequence[str], draws: int = 10_000
) -> tuple[float | None, tuple[float, float] | None]:
    """`nested_mean` of a table (C, S, N), and its 95 % percentile interval over patients (Efron 1979), seed fixed.

    A patient's cases are drawn together. Without any score, or the interval with fewer than two scored patients: None.

    Args:
        patients: of the C cases.
    """
    scored = ~np.isnan(table).all(axis=(1, 2))
    if not scored.any():
        return None, None
    table = table[scored]
    names, places = np.unique(np.array(patients)[scored], return_inverse=True)
    point = float(nested_mean(table, np.ones((1, len(table))))[0])
    if len(names) < 2:
        return point, None
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    low, high = np.percentile(nested_mean(table, counts[:, places].astype(float)), [2.5, 97.5])
    return point, (float(low), float(high))


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what could be scored; None if nothing could."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
