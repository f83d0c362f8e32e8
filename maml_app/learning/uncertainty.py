"""How sure the ensemble is."""

from __future__ import annotations

import math

import torch


def foreground_entropy(probabilities: torch.Tensor, floor: float = 0.1) -> float:
    """Mean predictive entropy, 0 (sure) to 1 (all classes alike), where foreground is at least `floor` likely.

    probabilities (K, X, Y, Z). The background-dominated rest is left out; without such a voxel the answer is 0.
    """
    possible = probabilities[1:].sum(dim=0) >= floor
    if not bool(possible.any()):
        return 0.0
    chosen = probabilities[:, possible].clamp(min=1e-8)
    entropy = -(chosen * chosen.log()).sum(dim=0) / math.log(len(probabilities))
    return float(entropy.mean())
