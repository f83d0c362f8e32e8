"""How sure the ensemble is."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def entropy_map(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of class probabilities (K, …), per voxel."""
    kept = probabilities.clamp(min=1e-12)
    return -(kept * kept.log()).sum(dim=0)


def divergence_map(opinions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Jensen-Shannon divergence in nats of several class probabilities (K, …), per voxel; 0 for one opinion."""
    mean = torch.stack(list(opinions)).mean(dim=0)
    result = entropy_map(mean) - torch.stack([entropy_map(opinion) for opinion in opinions]).mean(dim=0)
    return result.clamp(min=0)
