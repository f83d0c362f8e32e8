"""The MAML ensemble and its early-fusion rival, under one interface.

`forward(images (B, M, X, Y, Z), presence (B, M) bool, subset (B, M) bool | None) -> Outputs`; every row of presence
holds at least one modality, and `subset` is a non-empty part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from maml_app.network.fusion import HEADS
from maml_app.network.unet import UNet

# channels last: twice as fast as the default for narrow 3D convolutions on the CPU
LAYOUT = torch.channels_last_3d


@dataclass
class Outputs:
    """What a network says of a batch.

    Attributes:
        fused: logits (B, K, X, Y, Z) from all present modalities, then coarser deep-supervision logits, if any.
        subset: logits (B, K, X, Y, Z) from the subset alone, if one was asked for.
        experts: modality index -> (rows (B,) bool in which it is present, its own logits, finest first).
    """

    fused: list[torch.Tensor]
    subset: torch.Tensor | None = None
    experts: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = field(default_factory=dict)


class MamlEnsemble(nn.Module):
    """One U-Net expert a modality, joined by a modality-aware head; experts of absent modalities are not run."""

    def __init__(
        self,
        modalities: int,
        classes: int,
        channels: Sequence[int],
        strides: Sequence[tuple[int, int, int]],
        head: str = "light",
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(UNet(1, classes, channels, strides) for _ in range(modalities))
        self.head = HEADS[head](modalities, channels[0], classes)

    def _run_experts(
        self, images: torch.Tensor, presence: torch.Tensor
    ) -> tuple[list[torch.Tensor], dict[int, tuple[torch.Tensor, list[torch.Tensor]]]]:
        images = images.contiguous(memory_format=LAYOUT)
        features: list[torch.Tensor | None] = []
        opinions: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}
        for index, expert in enumerate(self.experts):
            assert isinstance(expert, UNet)
            rows = presence[:, index]
            if not bool(rows.any()):
                features.append(None)
                continue
            whole = bool(rows.all())
            one = images[:, index : index + 1]
            levels = expert.features(one if whole else one[rows])
            opinions[index] = (rows, expert.logits(levels, deep=self.training))
            finest = levels[0]
            if not whole:
                finest = finest.new_zeros((len(rows), *finest.shape[1:])).index_put((rows,), finest)
            features.append(finest)
        like = next(feature for feature in features if feature is not None)
        return [torch.zeros_like(like) if feature is None else feature for feature in features], opinions

    def _fuse(self, features: Sequence[torch.Tensor], presence: torch.Tensor) -> torch.Tensor:
        kept = [f * presence[:, i, None, None, None, None] for i, f in enumerate(features)]
        logits: torch.Tensor = self.head(kept, presence)[0]
        return logits

    def forward(self, images: torch.Tensor, presence: torch.Tensor, subset: torch.Tensor | None = None) -> Outputs:
        features, opinions = self._run_experts(images, presence)
        part = None if subset is None else self._fuse(features, subset)
        return Outputs([self._fuse(features, presence)], part, opinions)

    def each_subset(self, images: torch.Tensor, presences: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Logits (B, K, X, Y, Z) under each presence (B, M); the experts run once for all of them."""
        features, _ = self._run_experts(images, torch.stack(list(presences)).any(dim=0))
        for presence in presences:
            yield self._fuse(features, presence)


class EarlyFusion(nn.Module):
    """The rival: one U-Net on all modalities as channels, absent ones zero; trained with modality dropout."""

    def __init__(
        self, modalities: int, classes: int, channels: Sequence[int], strides: Sequence[tuple[int, int, int]]
    ) -> None:
        super().__init__()
        self.unet = UNet(modalities, classes, channels, strides)

    def forward(self, images: torch.Tensor, presence: torch.Tensor, subset: torch.Tensor | None = None) -> Outputs:
        """As the ensemble, but with a subset only that is run: one pass a step, as modality dropout does."""
        kept = presence if subset is None else subset
        images = images.contiguous(memory_format=LAYOUT)
        features = self.unet.features(images * kept[:, :, None, None, None])
        return Outputs(self.unet.logits(features, deep=self.training))

    def each_subset(self, images: torch.Tensor, presences: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Logits (B, K, X, Y, Z) under each presence (B, M)."""
        for presence in presences:
            yield self(images, presence).fused[0]


SegmentationNetwork = MamlEnsemble | EarlyFusion


def build_network(modalities: int, classes: int, plan: dict[str, Any]) -> SegmentationNetwork:
    """The network that a plan describes: the fields of `cases.spec.Network` as plain values."""
    strides = [(int(x), int(y), int(z)) for x, y, z in plan["strides"]]
    channels = [int(channel) for channel in plan["channels"]]
    network: SegmentationNetwork
    if plan["kind"] == "maml":
        network = MamlEnsemble(modalities, classes, channels, strides, plan["head"])
    else:
        wide = [channel * int(plan["fusion_width"]) for channel in channels]
        network = EarlyFusion(modalities, classes, wide, strides)
    network.to(memory_format=LAYOUT)  # type: ignore[call-overload]  # a form of Module.to that its stubs leave out
    return network
