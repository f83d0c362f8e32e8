"""Sliding-window prediction on whole images, with MONAI's inferer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn
from torch.nn import functional as F

from maml_app.machine import go_on
from maml_app.network.ensemble import MamlEnsemble, SegmentationNetwork


def _slide(images: torch.Tensor, patch: Sequence[int], predict: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Windows run on the images' device, the sum over them is kept on the CPU; Gaussian weights, half overlap.

    An image smaller than the patch is padded with each channel's lowest value, as patches are in training. Ends between
    two windows once nobody waits for the result (`machine.abandoned_when`).
    """
    before = [max(0, side - size) // 2 for side, size in zip(patch, images.shape[1:], strict=True)]
    after = [max(0, side - size) - b for side, size, b in zip(patch, images.shape[1:], before, strict=True)]
    pads = [pad for pair in zip(before[::-1], after[::-1], strict=True) for pad in pair]
    padded = torch.stack([F.pad(channel, pads, value=float(channel.min())) for channel in images])

    def step(window: torch.Tensor) -> torch.Tensor:
        go_on()
        return predict(window)

    result = sliding_window_inference(
        padded[None], tuple(patch), 1, step, overlap=0.5, mode="gaussian", sigma_scale=0.25, device="cpu"
    )
    assert isinstance(result, torch.Tensor)
    x, y, z = (slice(b, b + size) for b, size in zip(before, images.shape[1:], strict=True))
    return result[0][:, x, y, z]


@torch.inference_mode()
def predict(
    network: SegmentationNetwork, images: torch.Tensor, presence: torch.Tensor, patch: Sequence[int]
) -> torch.Tensor:
    """Class probabilities (K, X, Y, Z) on the CPU, for images (M, X, Y, Z) and presence (M,)."""
    network.eval()

    def softmax(window: torch.Tensor) -> torch.Tensor:
        return torch.softmax(network(window, presence[None]).fused[0].float(), dim=1)

    return _slide(images, patch, softmax)


@torch.inference_mode()
def predict_subsets(
    network: SegmentationNetwork, images: torch.Tensor, presences: Sequence[torch.Tensor], patch: Sequence[int]
) -> torch.Tensor:
    """Class probabilities (S, K, X, Y, Z) on the CPU under each of S presences (M,)."""
    network.eval()

    def softmax(window: torch.Tensor) -> torch.Tensor:
        rows = [presence[None] for presence in presences]
        return torch.cat([torch.softmax(logits.float(), dim=1) for logits in network.each_subset(window, rows)], dim=1)

    stacked = _slide(images, patch, softmax)
    return stacked.reshape(len(presences), -1, *stacked.shape[1:])


@torch.inference_mode()
def predict_attention(
    network: MamlEnsemble, images: torch.Tensor, presence: torch.Tensor, patch: Sequence[int]
) -> torch.Tensor:
    """How much the ensemble's head looks at each modality, (M, X, Y, Z) on the CPU; 0 where one is absent."""
    network.eval()
    return _slide(images, patch, lambda window: network.attention(window, presence[None]).float())


@dataclass(frozen=True, eq=False)
class Opinions:
    """What the ensemble and each of its experts say of one case.

    Attributes:
        fused: class probabilities (K, X, Y, Z) of the whole ensemble, on the CPU.
        experts: modality index -> class probabilities (K, X, Y, Z) of its expert alone; empty for the rival network.
        features: what the networks saw in the coarsest level, averaged over the image, (F,); absent experts give zeros.
    """

    fused: torch.Tensor
    experts: dict[int, torch.Tensor]
    features: torch.Tensor


class Answering(nn.Module):
    """What a window is asked of a network, as one function of the window that can be compiled.

    It takes images (1, M, X, Y, Z) and returns probabilities (1, (1 + E) K, X, Y, Z), the whole ensemble's and then
    those of the E present experts (none of the rival network), and the coarsest features averaged over the window (F,).
    """

    def __init__(self, network: SegmentationNetwork, presence: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.presence = presence[None]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        network = self.network
        if isinstance(network, MamlEnsemble):
            encoded = network.encode(images, self.presence)
            features, experts = network.decode(encoded)
            fused = network.fuse(features, self.presence)
            logits = [fused, *(levels[0] for _, levels in experts.values())]
            coarse = {index: skips[-1] for index, (_, skips) in encoded.items()}
            count = len(network.experts)
        else:
            skips = network.unet.encode(images * self.presence[:, :, None, None, None])
            logits = network.unet.logits(network.unet.decode(skips), deep=False)
            coarse, count = {0: skips[-1]}, 1
        means = {index: skip.mean(dim=(0, 2, 3, 4)).float() for index, skip in coarse.items()}
        nothing = torch.zeros_like(next(iter(means.values())))
        seen = torch.cat([means.get(index, nothing) for index in range(count)])
        return torch.cat([torch.softmax(logit.float(), dim=1) for logit in logits], dim=1), seen


Answer = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@torch.inference_mode()
def predict_opinions(
    network: SegmentationNetwork,
    images: torch.Tensor,
    presence: torch.Tensor,
    patch: Sequence[int],
    answer: Answer | None = None,
) -> Opinions:
    """As `predict`, with the opinion of each present expert and the coarsest features, all from one pass.

    Args:
        answer: a faster way to what `Answering` computes.
    """
    network.eval()
    answer = answer or Answering(network, presence)
    seen: list[torch.Tensor] = []

    def said(window: torch.Tensor) -> torch.Tensor:
        probabilities, features = answer(window)
        seen.append(features.cpu())
        return probabilities

    stacked = _slide(images, patch, said)
    one_each = isinstance(network, MamlEnsemble)
    present = [index for index, there in enumerate(presence.tolist()) if there and one_each]
    parts = stacked.reshape(1 + len(present), -1, *stacked.shape[1:])
    experts = {index: parts[1 + place] for place, index in enumerate(present)}
    return Opinions(parts[0], experts, torch.stack(seen).mean(dim=0))
