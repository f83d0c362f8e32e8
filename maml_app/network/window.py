"""Sliding-window prediction on whole images, with MONAI's inferer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.inferers.utils import sliding_window_inference
from torch.nn import functional as F

from maml_app.machine import go_on
from maml_app.network.ensemble import MamlEnsemble, SegmentationNetwork

# MONAI 1.5 indexes in a way that newer torch warns of, once a process
warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)


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
        return torch.cat([torch.softmax(one.float(), dim=1) for one in network.each_subset(window, rows)], dim=1)

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


@torch.inference_mode()
def predict_opinions(
    network: SegmentationNetwork, images: torch.Tensor, presence: torch.Tensor, patch: Sequence[int]
) -> Opinions:
    """As `predict`, with the opinion of each present expert and the coarsest features, all from one pass."""
    network.eval()
    present = [index for index, there in enumerate(presence.tolist()) if there]
    coarse: dict[int, list[torch.Tensor]] = {}
    unets = list(network.experts) if isinstance(network, MamlEnsemble) else [network.unet]
    hooks = [
        unet.encoder[-1].register_forward_hook(  # type: ignore[union-attr, index]
            lambda module, inputs, output, index=index: coarse.setdefault(index, []).append(
                output.mean(dim=(0, 2, 3, 4)).float().cpu()
            )
        )
        for index, unet in enumerate(unets)
    ]

    def softmax(window: torch.Tensor) -> torch.Tensor:
        outputs = network(window, presence[None])
        logits = [outputs.fused[0], *(outputs.experts[index][1][0] for index in present if outputs.experts)]
        return torch.cat([torch.softmax(logit.float(), dim=1) for logit in logits], dim=1)

    try:
        stacked = _slide(images, patch, softmax)
    finally:
        for hook in hooks:
            hook.remove()
    width = max(len(values[0]) for values in coarse.values())
    features = [
        torch.stack(coarse[index]).mean(dim=0) if index in coarse else torch.zeros(width) for index in range(len(unets))
    ]
    one_each = isinstance(network, MamlEnsemble)
    parts = stacked.reshape(1 + len(present) * one_each, -1, *stacked.shape[1:])
    experts = {index: parts[1 + place] for place, index in enumerate(present)} if one_each else {}
    return Opinions(parts[0], experts, torch.cat(features))
