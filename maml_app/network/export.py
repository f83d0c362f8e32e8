"""A network as TorchScript: one file that torch runs without this program."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from torch import nn

from maml_app.errors import ModelError
from maml_app.network.ensemble import MamlEnsemble, SegmentationNetwork
from maml_app.network.unet import UNet

TOLERANCE = 1e-4  # of a probability


class _AllExperts(nn.Module):
    """The ensemble without choices that depend on values: every expert runs, absent ones count as zero."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.network, MamlEnsemble):
            return torch.softmax(self.network(images, presence).fused[0], dim=1)
        rows = torch.ones_like(presence[:, 0])
        encoded = {}
        for index, expert in enumerate(self.network.experts):
            assert isinstance(expert, UNet)
            encoded[index] = (rows, expert.encode(images[:, index : index + 1]))
        features, _ = self.network.decode(encoded)
        return torch.softmax(self.network.fuse(features, presence), dim=1)


def export_torchscript(path: Path, network: SegmentationNetwork, modalities: int, patch: Sequence[int]) -> None:
    """Write the network to exactly `path`, for one patch size. Not atomic: the caller hands in a temporary file.

    The function in the file takes images (1, M, X, Y, Z) float32, normalised and on the network's grid, and presence
    (1, M) bool; it returns class probabilities (1, K, X, Y, Z).

    Raises:
        ModelError: what was written does not answer as the network does, under one of the subsets of modalities.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    example = torch.randn(1, modalities, *patch, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(1, modalities, dtype=torch.bool)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing says of every shape that it becomes a constant: that is wanted
        traced = torch.jit.trace(_AllExperts(network), (example, everything), check_trace=False)
        torch.jit.save(traced, str(path))
        again = torch.jit.load(str(path))
        for chosen in product((False, True), repeat=modalities):
            presence = torch.tensor([chosen])
            if not presence.any():
                continue
            ours = torch.softmax(network(example, presence).fused[0], dim=1)
            apart = float((again(example, presence) - ours).abs().max())
            if not apart <= TOLERANCE:
                raise ModelError(f"{path}: the exported model differs from the network by {apart:g}; it is not usable")
