"""The loss: what each term compares, and why.

fused        fused prediction against truth: the answer itself; Dice + cross-entropy, deeply supervised
experts      each expert against truth: the intra-modality loss of arXiv 2107.09842; an expert segments alone
mutual       each expert against the detached fused prediction: knowledge passes between modalities, arXiv 2107.09842
             and deep mutual learning, arXiv 1706.00384; KL over the foreground
subset       fusion of parts of the modalities against truth, the mean over them: modality dropout in the head; the
             experts' features serve all predictions, so it costs no second pass
consistency  fusion of the same parts against the detached full fusion: self-distillation from more to fewer

Both divergences soften the probabilities by `temperature` and are scaled by its square (Hinton, arXiv 1503.02531).
Segmentation against truth is cross-entropy over the classes and Dice over what is scored: each class, or nested regions
as BraTS has them, whose probability is the sum over their classes. So regions are trained as they are judged, and the
answer stays one class a voxel.

Voxels whose truth is unknown (below 0), as of a case that a model has labelled where it was sure, count for nothing
against truth.

The early-fusion network has the first term only, on a random part: that is modality dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceLoss
from torch import nn
from torch.nn import functional as F

from maml_app.network.ensemble import Outputs
from maml_app.network.settings import Loss


class MutualLearningLoss(nn.Module):
    """Weighted sum of the terms above.

    Args:
        weights: what each term weighs; 0 skips it.
        regions: the classes of each region that is scored; every class but background by itself if None.
    """

    def __init__(self, weights: Loss, regions: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.regions = regions
        self.dice = DiceLoss(include_background=True, batch=True)

    @property
    def asks_for_subsets(self) -> bool:
        """Whether any term looks at what a part of the modalities says; else there is no need to run it."""
        return bool(self.weights.subset or self.weights.consistency)

    def forward(self, outputs: Outputs, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weighted terms by name, and their sum as "total"; truth (B, X, Y, Z) holds class indices."""
        terms = {}
        if self.weights.fused:
            terms["fused"] = self._deep(outputs.fused, truth)
        fused = outputs.fused[0].detach()
        if outputs.experts:
            opinions = outputs.experts.values()
            if self.weights.experts:
                terms["experts"] = _mean([self._deep(logits, truth[rows]) for rows, logits in opinions])
            if self.weights.mutual:
                terms["mutual"] = _mean(
                    [self._divergence(logits[0], fused[rows], truth[rows]) for rows, logits in opinions]
                )
        if outputs.parts:
            if self.weights.subset:
                terms["subset"] = _mean([self._deep([said], truth) for said in outputs.parts])
            if self.weights.consistency:
                terms["consistency"] = _mean([self._divergence(said, fused, truth) for said in outputs.parts])
        weighted = {name: getattr(self.weights, name) * value for name, value in terms.items()}
        weighted["total"] = torch.stack(list(weighted.values())).sum()
        return weighted

    def _divergence(self, student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return foreground_kl(student, teacher, truth, self.weights.temperature)

    def _deep(self, logits: Sequence[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
        """Deep supervision as nnU-Net's (10.1038/s41592-020-01008-z), where each level weighs half of the finer."""
        total, deep = logits[0].new_zeros(()), self.weights.deep
        weights = [deep**level for level in range(len(logits) if deep else 1)]
        for weight, level in zip(weights, logits, strict=False):
            small = F.interpolate(truth[:, None].float(), size=level.shape[2:], mode="nearest-exact")
            total = total + weight / sum(weights) * self._segmentation(level.float(), small[:, 0].long())
        return total

    def _segmentation(self, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        regions = self.regions or [(value,) for value in range(1, logits.shape[1])]
        probabilities = torch.softmax(logits, dim=1)
        said = torch.stack([probabilities[:, list(values)].sum(dim=1) for values in regions], dim=1)
        true = torch.stack([torch.isin(truth, truth.new_tensor(values)) for values in regions], dim=1)
        known = truth >= 0
        dice: torch.Tensor = self.dice(said * known[:, None], true.float())
        entropy = F.cross_entropy(logits, truth, ignore_index=-1, reduction="sum")
        return dice + entropy / known.sum().clamp(min=1)


def foreground_kl(
    student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Mean KL(teacher || student) over voxels that are foreground in truth or to the teacher.

    Student and teacher are logits (B, K, X, Y, Z), truth class indices (B, X, Y, Z). Without any such voxel, 0.
    """
    teacher_log = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = (teacher_log.exp() * (teacher_log - F.log_softmax(student.float() / temperature, dim=1))).sum(dim=1)
    divergence = divergence * temperature**2
    foreground = ((truth > 0) | (teacher[:, 1:].amax(dim=1) > teacher[:, 0])).float()
    return (divergence * foreground).sum() / foreground.sum().clamp(min=1)


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).mean()
