"""How a label map is scored against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from maml_app.imaging.volume import Array


def dice(prediction: Array, truth: Array, values: Sequence[int]) -> float | None:
    """Dice of the union of `values`: 2 |A and B| / (|A| + |B|). Both empty: None, there is nothing to score."""
    one, two = np.isin(prediction, list(values)), np.isin(truth, list(values))
    size = int(one.sum()) + int(two.sum())
    return None if size == 0 else 2 * int((one & two).sum()) / size


def dice_scores(prediction: Array, truth: Array, scored: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
    """Dice by the names of TaskSpec.scored."""
    return {name: dice(prediction, truth, values) for name, values in scored.items()}


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
