"""Sliding-window prediction on whole images, with MONAI's inferer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from monai.inferers.utils import sliding_window_inference
from torch.nn import functional as F

from maml_app.network.ensemble import SegmentationNetwork

# MONAI 1.5 indexes in a way that newer torch warns of, once a process
warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)


def _slide(images: torch.Tensor, patch: Sequence[int], predict: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Windows run on the images' device, the sum over them is kept on the CPU; Gaussian weights, half overlap.

    An image smaller than the patch is padded with each channel's lowest value, as patches are in training.
    """
    before = [max(0, side - size) // 2 for side, size in zip(patch, images.shape[1:], strict=True)]
    after = [max(0, side - size) - b for side, size, b in zip(patch, images.shape[1:], before, strict=True)]
    pads = [pad for pair in zip(before[::-1], after[::-1], strict=True) for pad in pair]
    padded = torch.stack([F.pad(channel, pads, value=float(channel.min())) for channel in images])
    result = sliding_window_inference(
        padded[None], tuple(patch), 1, predict, overlap=0.5, mode="gaussian", sigma_scale=0.25, device="cpu"
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
