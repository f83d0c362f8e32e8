"""Modality-aware attention: how the experts' last features become one prediction.

The heads take features F_i, a list of M tensors (B, C, X, Y, Z) that are zero where a modality is absent, and
presence (B, M) bool; they return logits (B, K, X, Y, Z) and the attention (B, M, C, X, Y, Z).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def _conv(inside: int, outside: int, size: int) -> nn.Conv3d:
    return nn.Conv3d(inside, outside, kernel_size=size, padding=size // 2)


def _gate(width: int) -> nn.Sequential:
    """Conv3 -> InstanceNorm -> LeakyReLU -> Conv3 on [F_i, fused]."""
    return nn.Sequential(
        _conv(2 * width, width, 3), nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.01), _conv(width, width, 3)
    )


def _columns(presence: torch.Tensor) -> torch.Tensor:
    """Presence (B, M) as (B, M, 1, 1, 1, 1), to meet features stacked at axis 1."""
    return presence[:, :, None, None, None, None]


def _upsampled(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(values, size=like.shape[2:], mode="trilinear")


class _Head(nn.Module):
    """The parts that heads with attention share, for M modalities whose last features are `width` wide."""

    def __init__(self, modalities: int, width: int, classes: int) -> None:
        super().__init__()
        self.fuse = _conv(modalities * width, width, 3)
        self.gates = nn.ModuleList(_gate(width) for _ in range(modalities))
        self.out = _conv(width, classes, 1)


class PaperHead(_Head):
    """The module of Zhang et al., arXiv 2107.09842:

    fused = Conv3(concat F_i);  a_i = sigmoid(Conv3(LeakyReLU(InstanceNorm(Conv3([F_i, fused])))));
    out = Conv1(sum a_i F_i). With modalities missing the sum is scaled by M / |present|, so that its size stays.
    """

    def forward(self, features: Sequence[torch.Tensor], presence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fused = self.fuse(torch.cat(list(features), dim=1))
        gates = zip(self.gates, features, strict=True)
        attention = torch.stack([torch.sigmoid(gate(torch.cat([f, fused], dim=1))) for gate, f in gates], dim=1)
        attention = attention * _columns(presence)
        share = len(features) / presence.sum(dim=1).to(attention.dtype)
        weighted = sum(attention[:, i] * f for i, f in enumerate(features)) * share[:, None, None, None, None]
        return self.out(weighted), attention


class LightHead(_Head):
    """The same idea for an eighth of the arithmetic: attention at half resolution, and a softmax over those present.

    fused = Conv3(concat P F_i);  a = U softmax over present i of Conv3(LeakyReLU(InstanceNorm(Conv3([P F_i, fused]))));
    out = Conv1(sum a_i F_i), with P a 2 x 2 x 2 mean and U trilinear interpolation.
    """

    def forward(self, features: Sequence[torch.Tensor], presence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, attention, _ = self._weigh(features, presence)
        return logits, attention

    def _weigh(
        self, features: Sequence[torch.Tensor], presence: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, the attention, and `fused`."""
        small = [F.avg_pool3d(feature, 2, ceil_mode=True) for feature in features]
        fused = self.fuse(torch.cat(small, dim=1))
        gates = zip(self.gates, small, strict=True)
        scores = torch.stack([gate(torch.cat([f, fused], dim=1)) for gate, f in gates], dim=1)
        attention = torch.softmax(scores.masked_fill(~_columns(presence), float("-inf")), dim=1)
        large = _upsampled(attention.flatten(1, 2), features[0]).unflatten(1, attention.shape[1:3])
        # unbind and not an index: its gradient is one tensor, not one of zeros for each modality
        weighted = sum(weight * f for weight, f in zip(large.unbind(dim=1), features, strict=True))
        return self.out(weighted), large, fused


class JointHead(LightHead):
    """Attention chooses among the experts; what only their features together show is added, at half resolution.

    out = Conv1(sum a_i F_i) + U Conv3(LeakyReLU(InstanceNorm(fused))), the rest as in the light head.
    """

    def __init__(self, modalities: int, width: int, classes: int) -> None:
        super().__init__(modalities, width, classes)
        self.joint = nn.Sequential(nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.01), _conv(width, classes, 3))

    def forward(self, features: Sequence[torch.Tensor], presence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, attention, fused = self._weigh(features, presence)
        return logits + _upsampled(self.joint(fused), features[0]), attention


class AverageHead(nn.Module):
    """No attention: the mean of the present experts' probabilities. Its features are the experts' logits, C = K."""

    def __init__(self, modalities: int, width: int, classes: int) -> None:
        super().__init__()

    def forward(self, features: Sequence[torch.Tensor], presence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share = presence / presence.sum(dim=1, keepdim=True)
        attention = _columns(share).expand(-1, -1, *features[0].shape[1:])
        mean = sum(torch.softmax(f.float(), dim=1) * attention[:, i] for i, f in enumerate(features))
        assert isinstance(mean, torch.Tensor)
        return mean.clamp(min=1e-7).log(), attention


def agreement(opinions: Sequence[torch.Tensor], presence: torch.Tensor) -> torch.Tensor:
    """How much each expert's foreground agrees with that of the other present ones, (B, M), 0 to 1; 1 if alone.

    opinions: M logits (B, K, X, Y, Z), of any value where a modality is absent. Mean soft Dice with each other expert,
    smoothed by one voxel, so that experts who all see nothing agree. The idea of weighing experts by their consistency
    is that of CLoE, arXiv 2603.09316.
    """
    foreground = [1 - torch.softmax(opinion.detach().float(), dim=1)[:, 0].flatten(1) for opinion in opinions]
    rows = []
    for i, chance in enumerate(foreground):
        total, others = torch.zeros_like(chance[:, 0]), torch.zeros_like(chance[:, 0])
        for j, other in enumerate(foreground):
            if i != j:
                overlap = (2 * (chance * other).sum(dim=1) + 1) / (chance.sum(dim=1) + other.sum(dim=1) + 1)
                total, others = total + overlap * presence[:, j], others + presence[:, j]
        rows.append(torch.where(others > 0, total / others.clamp(min=1), torch.ones_like(total)))
    return torch.stack(rows, dim=1)


HEADS: dict[str, type[PaperHead] | type[LightHead] | type[AverageHead]] = {
    "paper": PaperHead,
    "light": LightHead,
    "joint": JointHead,
    "average": AverageHead,
}
