"""The MAML ensemble and its early-fusion rival, under one interface.

`forward(images (B, M, X, Y, Z), presence (B, M) bool, parts (P, B, M) bool | None) -> Outputs`; every row of presence
holds at least one modality, and each of `parts` is a non-empty part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from maml_app.network.fusion import HEADS, ByModality
from maml_app.network.layers import LAYOUT, quicken
from maml_app.network.settings import Network
from maml_app.network.unet import UNet

# modality index -> rows of the batch in which it is present, and tensors of these rows, finest first
ByExpert = dict[int, tuple[torch.Tensor, list[torch.Tensor]]]


@dataclass
class Outputs:
    """What a network says of a batch.

    Attributes:
        fused: logits (B, K, X, Y, Z) from all present modalities, then coarser deep-supervision logits, if any.
        parts: logits (B, K, X, Y, Z) from each part alone that was asked for.
        experts: modality index -> (rows (B,) bool in which it is present, its own logits, finest first).
    """

    fused: list[torch.Tensor]
    parts: list[torch.Tensor] = field(default_factory=list)
    experts: ByExpert = field(default_factory=dict)


class MamlEnsemble(nn.Module):
    """One U-Net expert a modality, joined by a modality-aware head; experts of absent modalities are not run."""

    def __init__(self, modalities: int, classes: int, settings: Network) -> None:
        super().__init__()
        channels, self.shared_decoder = settings.channels, settings.shared_decoder
        # a shared decoder is the first expert's
        self.experts = nn.ModuleList(
            UNet(1, classes, settings, decodes=index == 0 or not self.shared_decoder) for index in range(modalities)
        )
        self.head = HEADS[settings.head](modalities, channels[0], classes, settings.stem)
        self.averaged = settings.head == "average"

    def encode(self, images: torch.Tensor, presence: torch.Tensor) -> ByExpert:
        """Modality index -> rows in which it is present, and its expert's encoder features of these rows."""
        images = images.contiguous(memory_format=LAYOUT)
        encoded: ByExpert = {}
        for index, expert in enumerate(self.experts):
            assert isinstance(expert, UNet)
            rows = presence[:, index]
            if bool(rows.any()):
                image = images[:, index : index + 1]
                encoded[index] = (rows, expert.encode(image if bool(rows.all()) else image[rows]))
        return encoded

    def decode(self, encoded: ByExpert) -> tuple[ByModality, ByExpert]:
        """What the head fuses, of modalities that any row has, zero in rows without, and the experts' opinions."""
        found: dict[int, torch.Tensor] = {}
        opinions: ByExpert = {}
        for index, (rows, skips) in encoded.items():
            decoder = self.experts[0 if self.shared_decoder else index]
            assert isinstance(decoder, UNet)
            levels = decoder.decode(skips)
            opinions[index] = (rows, decoder.logits(levels, deep=self.training))
            found[index] = _scatter(opinions[index][1][0] if self.averaged else levels[0], rows)
        return found, opinions

    def fuse(self, features: ByModality, presence: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, X, Y, Z) from the features that `decode` returned, of those present alone."""
        return self._attend(features, presence)[0]

    def _attend(self, features: ByModality, presence: torch.Tensor) -> tuple[torch.Tensor, ByModality]:
        kept = {index: feature * _column(presence, index) for index, feature in features.items()}
        logits, attention = self.head(kept, presence)
        return logits, attention

    def attention(self, images: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        """How much the head looks at each modality (B, M, X, Y, Z): its attention, averaged over features."""
        features, _ = self.decode(self.encode(images, presence))
        _, attention = self._attend(features, presence)
        means = {index: weights.mean(dim=1) for index, weights in attention.items()}
        absent = torch.zeros_like(next(iter(means.values())))
        found = torch.stack([means.get(index, absent) for index in range(len(self.experts))], dim=1)
        return found if found.shape[2:] == images.shape[2:] else F.interpolate(found, size=images.shape[2:])

    def forward(self, images: torch.Tensor, presence: torch.Tensor, parts: torch.Tensor | None = None) -> Outputs:
        features, opinions = self.decode(self.encode(images, presence))
        fused = self.fuse(features, presence)
        said = [] if parts is None else [self._of_part(features, part) for part in parts]
        return Outputs([fused], said, opinions)

    def _of_part(self, features: ByModality, presence: torch.Tensor) -> torch.Tensor:
        there = {index: feature for index, feature in features.items() if bool(presence[:, index].any())}
        return self.fuse(there, presence)

    def each_subset(self, images: torch.Tensor, presences: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Logits (B, K, X, Y, Z) under each presence (B, M); the experts run once for all of them."""
        everything = torch.stack(list(presences)).any(dim=0)
        features, _ = self.decode(self.encode(images, everything))
        for presence in presences:
            yield self._of_part(features, presence)


def _scatter(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Put the values of some rows of a batch back to their places, zeros elsewhere."""
    if len(values) == len(rows):
        return values
    return values.new_zeros((len(rows), *values.shape[1:])).index_put((rows,), values)


def _column(presence: torch.Tensor, index: int) -> torch.Tensor:
    """What (B, M) holds of one modality, as (B, 1, 1, 1, 1)."""
    return presence[:, index, None, None, None, None]


class EarlyFusion(nn.Module):
    """The rival: one U-Net on all modalities as channels, absent ones zero; trained with modality dropout."""

    def __init__(self, modalities: int, classes: int, settings: Network) -> None:
        super().__init__()
        wide = tuple(round(channel * settings.fusion_width) for channel in settings.channels)
        self.unet = UNet(modalities, classes, settings.model_copy(update={"channels": wide}))

    def forward(self, images: torch.Tensor, presence: torch.Tensor, parts: torch.Tensor | None = None) -> Outputs:
        """As the ensemble, but with the last part only: one pass a step, as modality dropout does."""
        kept = presence if parts is None else parts[-1]
        images = images.contiguous(memory_format=LAYOUT)
        features = self.unet.features(images * kept[:, :, None, None, None])
        return Outputs(self.unet.logits(features, deep=self.training))

    def each_subset(self, images: torch.Tensor, presences: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Logits (B, K, X, Y, Z) under each presence (B, M)."""
        for presence in presences:
            yield self(images, presence).fused[0]


SegmentationNetwork = MamlEnsemble | EarlyFusion


def build_network(modalities: int, classes: int, settings: Network) -> SegmentationNetwork:
    """The network of these settings, with weights drawn from torch's generator."""
    network: SegmentationNetwork
    if settings.kind == "maml":
        network = MamlEnsemble(modalities, classes, settings)
    else:
        network = EarlyFusion(modalities, classes, settings)
    quicken(network)
    return network
