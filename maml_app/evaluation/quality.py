"""What Dice to expect of an answer whose truth nobody has drawn yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

LEAST_CASES = 5  # fewer say nothing of the next one


def soft_dice(probabilities: torch.Tensor, scored: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """The Dice that probabilities (K, X, Y, Z), taken at their word, promise their own largest classes, by scored name:
    2 sum of p over the mask / (sum of p + size of the mask) (soft Dice confidence, arXiv 2402.10665).

    `scored` as of TaskSpec; what is found nowhere is left out.
    """
    winner = probabilities.argmax(dim=0)
    found = {}
    for name, values in scored.items():
        mask = torch.isin(winner, torch.tensor(list(values)))
        if bool(mask.any()):
            chance = probabilities[list(values)].float().sum(dim=0)
            found[name] = float(2 * chance[mask].sum() / (chance.sum() + mask.sum()))
    return found


@dataclass(frozen=True)
class Expectation:
    """Expected Dice = intercept + slope * soft Dice; `spread`: standard deviation of a case's Dice around it."""

    intercept: float
    slope: float
    spread: float
    cases: int

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> Expectation | None:
        """From the notes of a model; None if they hold none."""
        return cls(**content) if content else None

    def dice(self, promised: Mapping[str, float]) -> float | None:
        """Of an answer with these soft Dice, their mean over names; None if nothing was found."""
        if not promised:
            return None
        return float(np.clip(self.intercept + self.slope * np.mean(list(promised.values())), 0, 1))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fitted(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> Expectation | None:
    """Least squares through (soft Dice, Dice) of validation cases, by case id; None where there are too few cases.

    The spread is over cases, each by its mean residual's size, as pairs of one case are alike. A slope below zero says
    that the model does not know: then the mean is expected.
    """
    if len(pairs) < LEAST_CASES:
        return None
    promised, true = np.array([pair for of_case in pairs.values() for pair in of_case]).T
    slope = max(0.0, float(np.cov(promised, true)[0, 1] / max(float(promised.var(ddof=1)), 1e-9)))
    intercept = float(true.mean() - slope * promised.mean())
    squares = [np.mean([(y - intercept - slope * x) ** 2 for x, y in of_case]) for of_case in pairs.values()]
    return Expectation(intercept, slope, math.sqrt(sum(squares) / (len(pairs) - 2)), len(pairs))
