"""A 3D U-Net with deeply supervised heads, made of MONAI's blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetUpBlock
from torch import nn

from maml_app.network.settings import Ints3, Network

NORM = ("instance", {"affine": True})
VOXEL: Ints3 = (1, 1, 1)


class UNet(nn.Module):
    """Encoder and decoder with one skip a level; two 3 x 3 x 3 convolutions a level and side.

    Args:
        in_channels: image channels.
        classes: output channels K, background included.
        settings: widths and strides of the levels, finest first, and the stem before them.
        decodes: whether it has a decoder; without one it is an encoder whose features another U-Net decodes.
    """

    def __init__(self, in_channels: int, classes: int, settings: Network, decodes: bool = True) -> None:
        super().__init__()
        channels, strides, stem = settings.channels, settings.strides, settings.stem
        self.stem = nn.Identity() if stem == VOXEL else nn.Conv3d(in_channels, channels[0], stem, stride=stem)
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.heads = nn.ModuleList()
        width = in_channels if stem == VOXEL else channels[0]
        for channel, stride in zip(channels, strides, strict=True):
            self.encoder.append(UnetBasicBlock(3, width, channel, kernel_size=3, stride=stride, norm_name=NORM))
            width = channel
        if not decodes:
            return
        for fine, coarse, stride in zip(channels[:-1], channels[1:], strides[1:], strict=True):
            self.decoder.append(
                UnetUpBlock(3, coarse, fine, kernel_size=3, stride=1, upsample_kernel_size=stride, norm_name=NORM)
            )
            self.heads.append(scorer(fine, classes, VOXEL if self.heads else stem))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Decoder features of images (B, C, X, Y, Z), finest first; without a stem the first has the images' size."""
        return self.decode(self.encode(images))

    def encode(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Encoder features of images (B, C, X, Y, Z), finest first; the last is the bottleneck."""
        skips = []
        images = self.stem(images)
        for block in self.encoder:
            images = block(images)
            skips.append(images)
        return skips

    def decode(self, skips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Decoder features from those of `encode`, finest first."""
        *finer, below = skips
        result = []
        for block, skip in zip(reversed(self.decoder), reversed(finer), strict=True):
            below = block(below, skip)
            result.append(below)
        return result[::-1]

    def logits(self, features: Sequence[torch.Tensor], deep: bool) -> list[torch.Tensor]:
        """Class scores (B, K, x, y, z) from the features, finest first; only the finest unless `deep`."""
        used = features if deep else features[:1]
        return [head(feature) for head, feature in zip(self.heads, used, strict=False)]


def scorer(width: int, classes: int, stem: Ints3) -> nn.Module:
    """From features of places to scores of the voxels in each: a 1 x 1 x 1 convolution where a place is one voxel."""
    if stem == VOXEL:
        return nn.Conv3d(width, classes, kernel_size=1)
    return nn.ConvTranspose3d(width, classes, stem, stride=stem)
