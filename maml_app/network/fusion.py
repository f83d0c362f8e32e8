"""Modality-aware attention: how the experts' last features become one prediction.

The heads take features F_i (B, C, X, Y, Z) by modality index, of those that any row of the batch has, zero in rows
where one is absent, and presence (B, M) bool; they return logits (B, K, X, Y, Z) and the attention (B, C, X, Y, Z) by
modality index. What is absent everywhere costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from maml_app.network.settings import Ints3
from maml_app.network.unet import VOXEL, scorer

ByModality = Mapping[int, torch.Tensor]


def _conv(inside: int, outside: int, size: int) -> nn.Conv3d:
    return nn.Conv3d(inside, outside, kernel_size=size, padding=size // 2)


def _gate(width: int) -> nn.Sequential:
    """Conv3 -> InstanceNorm -> LeakyReLU -> Conv3 on [F_i, fused]."""
    return nn.Sequential(
        _conv(2 * width, width, 3), nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.01), _conv(width, width, 3)
    )


def _columns(presence: torch.Tensor, features: ByModality) -> torch.Tensor:
    """Presence (B, M) of those with features as (B, N, 1, 1, 1, 1), to meet features stacked at axis 1."""
    return presence[:, list(features)][:, :, None, None, None, None]


def _upsampled(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(values, size=like.shape[2:], mode="trilinear")


def _halved(features: ByModality) -> ByModality:
    return {index: F.avg_pool3d(feature, 2, ceil_mode=True) for index, feature in features.items()}


def _weighted(features: ByModality, weights: ByModality) -> torch.Tensor:
    total = sum(weights[index] * feature for index, feature in features.items())
    assert isinstance(total, torch.Tensor)
    return total


class _Head(nn.Module):
    """The parts that heads with attention share, for M modalities whose last features are `width` wide.

    `stem`: voxels of a place of these features, along each axis; the logits are of voxels.
    """

    def __init__(self, modalities: int, width: int, classes: int, stem: Ints3 = VOXEL) -> None:
        super().__init__()
        self.fuse = _conv(modalities * width, width, 3)
        self.gates = nn.ModuleList(_gate(width) for _ in range(modalities))
        self.out = scorer(width, classes, stem)

    def _fuse(self, features: ByModality) -> torch.Tensor:
        """Conv3(concat F_i), where what is absent is zero."""
        width, weight = self.fuse.out_channels, self.fuse.weight
        if len(features) < len(self.gates):
            weight = torch.cat([weight[:, index * width : (index + 1) * width] for index in features], dim=1)
        return F.conv3d(torch.cat(list(features.values()), dim=1), weight, self.fuse.bias, padding=self.fuse.padding)

    def _gates(self, features: ByModality, fused: torch.Tensor) -> torch.Tensor:
        """Conv3(LeakyReLU(InstanceNorm(Conv3([F_i, fused])))) of each, stacked at axis 1."""
        return torch.stack([self.gates[index](torch.cat([f, fused], dim=1)) for index, f in features.items()], dim=1)


class PaperHead(_Head):
    """The module of Zhang et al., arXiv 2107.09842:

    fused = Conv3(concat F_i);  a_i = sigmoid(Conv3(LeakyReLU(InstanceNorm(Conv3([F_i, fused])))));
    out = Conv1(sum a_i F_i). With modalities missing the sum is scaled by M / |present|, so that its size stays.
    """

    def forward(self, features: ByModality, presence: torch.Tensor) -> tuple[torch.Tensor, ByModality]:
        attention = torch.sigmoid(self._gates(features, self._fuse(features))) * _columns(presence, features)
        share = presence.shape[1] / presence.sum(dim=1).to(attention.dtype)
        weights = dict(zip(features, attention.unbind(dim=1), strict=True))
        return self.out(_weighted(features, weights) * share[:, None, None, None, None]), weights


class LightHead(_Head):
    """The same idea for an eighth of the arithmetic: attention at half resolution, and a softmax over those present.

    fused = Conv3(concat P F_i);  a = U softmax over present i of Conv3(LeakyReLU(InstanceNorm(Conv3([P F_i, fused]))));
    out = Conv1(sum a_i F_i), with P a 2 x 2 x 2 mean and U trilinear interpolation.
    """

    def forward(self, features: ByModality, presence: torch.Tensor) -> tuple[torch.Tensor, ByModality]:
        small = _halved(features)
        attention = self._attention(features, presence, small, self._fuse(small))
        return self.out(_weighted(features, attention)), attention

    def _attention(
        self, features: ByModality, presence: torch.Tensor, small: ByModality, fused: torch.Tensor
    ) -> ByModality:
        if len(features) == 1:  # a softmax over one
            return {index: torch.ones_like(feature) for index, feature in features.items()}
        scores = self._gates(small, fused)
        attention = torch.softmax(scores.masked_fill(~_columns(presence, features), float("-inf")), dim=1)
        like = next(iter(features.values()))
        large = _upsampled(attention.flatten(1, 2), like).unflatten(1, attention.shape[1:3])
        # unbind and not an index: its gradient is one tensor, not one of zeros for each modality
        return dict(zip(features, large.unbind(dim=1), strict=True))


class JointHead(LightHead):
    """Attention chooses among the experts; what only their features together show is added, at half resolution.

    out = Conv1(sum a_i F_i) + U Conv3(LeakyReLU(InstanceNorm(fused))), the rest as in the light head.
    """

    def __init__(self, modalities: int, width: int, classes: int, stem: Ints3 = VOXEL) -> None:
        super().__init__(modalities, width, classes, stem)
        self.joint = nn.Sequential(nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.01), _conv(width, classes, 3))

    def forward(self, features: ByModality, presence: torch.Tensor) -> tuple[torch.Tensor, ByModality]:
        small = _halved(features)
        fused = self._fuse(small)
        attention = self._attention(features, presence, small, fused)
        logits = self.out(_weighted(features, attention))
        return logits + _upsampled(self.joint(fused), logits), attention


class AverageHead(nn.Module):
    """No attention: the mean of the present experts' probabilities. Its features are the experts' logits, C = K."""

    def __init__(self, modalities: int, width: int, classes: int, stem: Ints3 = VOXEL) -> None:
        super().__init__()

    def forward(self, features: ByModality, presence: torch.Tensor) -> tuple[torch.Tensor, ByModality]:
        share = presence / presence.sum(dim=1, keepdim=True)
        attention = {index: share[:, index, None, None, None, None].expand_as(f) for index, f in features.items()}
        opinions = {index: torch.softmax(f.float(), dim=1) for index, f in features.items()}
        return _weighted(opinions, attention).clamp(min=1e-7).log(), attention


HEADS: dict[str, type[PaperHead] | type[LightHead] | type[AverageHead]] = {
    "paper": PaperHead,
    "light": LightHead,
    "joint": JointHead,
    "average": AverageHead,
}
