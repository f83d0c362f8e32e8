"""How much there is to learn from a case: one pass of the ensemble gives M opinions and a fused one.

All measures are taken over the foreground that the ensemble or any expert predicts, never over the background that
fills most of an image, and shrunk by a prior volume, so that one odd voxel does not outrank a lesion:
score = sum of the voxels' values / (their number + that of PRIOR_ML).

Entropy of the fused prediction, over ln K. Jensen-Shannon divergence of the experts, JSD = H(mean p) - mean H(p), in
nats (Lin 1991, 10.1109/18.61115); it is the mutual information between the prediction and the choice of the expert
(BALD, Houlsby 2011, arXiv 1112.5745). One minus the mean pairwise Dice of the experts' label maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch

from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.quality import soft_dice
from maml_app.evaluation.uncertainty import divergence_map, entropy_map
from maml_app.network.window import Opinions

PRIOR_ML = 1.0
COLD = "none"  # stands for the version before there is a model


@dataclass(frozen=True)
class CaseScore:
    """What one model version says of one case. Plain values, so that it can be kept as JSON.

    Attributes:
        pairs: "ct+pet" -> JSD of these two experts and the volume where their label maps differ, ml.
        labels: label name -> entropy and JSD over where that label is predicted by the ensemble or any expert.
        left_out: modalities that the case has and that could not be used.
        foreground_ml: the fused prediction's foreground.
        promised: the Dice that the fused prediction promises itself, by scored name, as `soft_dice`.
        worst_slice: index along the third axis of the network's grid with most disagreement, else most entropy.
    """

    case: str
    version: str
    present: tuple[str, ...]
    entropy: float
    disagreement: float
    dice_disagreement: float
    pairs: dict[str, dict[str, float]]
    labels: dict[str, dict[str, float]]
    foreground_ml: float
    worst_slice: int
    features: tuple[float, ...] = field(default=(), repr=False)
    left_out: tuple[str, ...] = ()
    promised: dict[str, float] = field(default_factory=dict)


def over(values: torch.Tensor, where: torch.Tensor, voxel_ml: float) -> float:
    """Sum of the values in a region over its number of voxels and that of PRIOR_ML; 0 for an empty region."""
    return float(values[where].sum() / (int(where.sum()) + PRIOR_ML / voxel_ml))


def score_opinions(opinions: Opinions, case: str, version: str, spec: TaskSpec, voxel_ml: float) -> CaseScore:
    """All measures of one case, from what `predict_opinions` returned; `voxel_ml` is of the network's grid."""
    names = [spec.modality_names[index] for index in opinions.experts]
    experts = dict(zip(names, opinions.experts.values(), strict=True))
    fused_label = opinions.fused.argmax(dim=0)
    labels = {name: opinion.argmax(dim=0) for name, opinion in experts.items()}
    union = torch.stack([fused_label > 0, *(label > 0 for label in labels.values())]).any(dim=0)
    entropy = entropy_map(opinions.fused) / math.log(spec.classes)
    divergence = divergence_map(list(experts.values())) if len(experts) > 1 else torch.zeros_like(entropy)
    pairs = {}
    overlaps = []
    for first, second in combinations(names, 2):
        differ = labels[first] != labels[second]
        pairs[f"{first}+{second}"] = {
            "divergence": over(divergence_map([experts[first], experts[second]]), union, voxel_ml),
            "differ_ml": round(float(differ.sum()) * voxel_ml, 2),
        }
        both = int((labels[first] > 0).sum() + (labels[second] > 0).sum())
        same = int(((labels[first] == labels[second]) & (labels[first] > 0)).sum())
        overlaps.append(1.0 if both == 0 else 2 * same / both)
    by_label = {}
    for value, name in spec.label_values.items():
        where = torch.stack([fused_label == value, *(label == value for label in labels.values())]).any(dim=0)
        by_label[name] = {
            "entropy": over(entropy, where, voxel_ml),
            "divergence": over(divergence, where, voxel_ml),
        }
    odd = torch.where(union, divergence if len(experts) > 1 else entropy, torch.zeros_like(entropy))
    present = tuple(names) or spec.modality_names
    return CaseScore(
        case=case,
        version=version,
        present=present,
        entropy=over(entropy, union, voxel_ml),
        disagreement=over(divergence, union, voxel_ml),
        dice_disagreement=1 - sum(overlaps) / len(overlaps) if overlaps else 0.0,
        pairs=pairs,
        labels=by_label,
        foreground_ml=round(float((fused_label > 0).sum()) * voxel_ml, 2),
        worst_slice=int(odd.sum(dim=(0, 1)).argmax()),
        features=tuple(round(float(value), 5) for value in opinions.features),
        promised={name: round(value, 4) for name, value in soft_dice(opinions.fused, spec.scored).items()},
    )


def usual_divergence(scores: Sequence[CaseScore]) -> dict[str, float]:
    """What each pair of experts disagrees by in half of the cases; pairs that fewer than three cases have are left out.

    A modality that cannot see a structure always disagrees with one that can: that is no reason to label a case.
    """
    values: dict[str, list[float]] = {}
    for score in scores:
        for pair, found in score.pairs.items():
            values.setdefault(pair, []).append(found["divergence"])
    return {pair: sorted(found)[len(found) // 2] for pair, found in values.items() if len(found) >= 3}


def corrected_disagreement(score: CaseScore, usual: Mapping[str, float]) -> float:
    """Mean over the pairs of experts of what they disagree by beyond what they usually do, nats.

    Pairs of which nothing usual is known count as they are; a case with one modality has none: 0.
    """
    excess = [max(0.0, found["divergence"] - usual.get(pair, 0.0)) for pair, found in score.pairs.items()]
    return sum(excess) / len(excess) if excess else 0.0
