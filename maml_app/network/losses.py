"""The loss: what each term compares, and why.

fused        fused prediction against truth: the answer itself; Dice + cross-entropy, deeply supervised
experts      each expert against truth: the intra-modality loss of arXiv 2107.09842; an expert segments alone
mutual       each expert against the detached fused prediction: knowledge passes between modalities, arXiv 2107.09842
             and deep mutual learning, arXiv 1706.00384; KL over the foreground
subset       fusion of a random subset against truth: modality dropout in the head; the experts' features serve both
             predictions, so it costs no second pass
consistency  fusion of a random subset against the detached full fusion: self-distillation from more to fewer

The early-fusion network has the first term only, on a random subset: that is modality dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceCELoss
from torch import nn
from torch.nn import functional as F

from maml_app.network.ensemble import Outputs


class MutualLearningLoss(nn.Module):
    """Weighted sum of the terms above.

    Args:
        weights: term name -> weight; a weight of 0 skips the term.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights
        self.segmentation = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)

    def forward(self, outputs: Outputs, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weighted terms by name, and their sum as "total"; truth (B, X, Y, Z) holds class indices."""
        terms = {"fused": self._deep(outputs.fused, truth)}
        fused = outputs.fused[0].detach()
        if outputs.experts:
            opinions = outputs.experts.values()
            if self.weights["experts"]:
                terms["experts"] = _mean([self._deep(logits, truth[rows]) for rows, logits in opinions])
            if self.weights["mutual"]:
                terms["mutual"] = _mean(
                    [foreground_kl(logits[0], fused[rows], truth[rows]) for rows, logits in opinions]
                )
        if outputs.subset is not None:
            if self.weights["subset"]:
                terms["subset"] = self._deep([outputs.subset], truth)
            if self.weights["consistency"]:
                terms["consistency"] = foreground_kl(outputs.subset, fused, truth)
        weighted = {name: self.weights[name] * value for name, value in terms.items()}
        weighted["total"] = torch.stack(list(weighted.values())).sum()
        return weighted

    def _deep(self, logits: Sequence[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
        """Deep supervision: each coarser level weighs half of the finer one (nnU-Net, 10.1038/s41592-020-01008-z)."""
        total = logits[0].new_zeros(())
        weights = [0.5**level for level in range(len(logits))]
        for weight, level in zip(weights, logits, strict=True):
            small = F.interpolate(truth[:, None].float(), size=level.shape[2:], mode="nearest-exact")
            total = total + weight / sum(weights) * self.segmentation(level.float(), small)
        return total


def foreground_kl(student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean KL(teacher || student) over voxels that are foreground in truth or to the teacher.

    Student and teacher are logits (B, K, X, Y, Z), truth class indices (B, X, Y, Z). Without any such voxel, 0.
    """
    teacher_log = F.log_softmax(teacher.float(), dim=1)
    divergence = (teacher_log.exp() * (teacher_log - F.log_softmax(student.float(), dim=1))).sum(dim=1)
    foreground = ((truth > 0) | (teacher.argmax(dim=1) > 0)).float()
    return (divergence * foreground).sum() / foreground.sum().clamp(min=1)


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).mean()
