"""A plan from the data: grid, patch, levels, strides and batch for a task, within the memory at hand.

The rules are nnU-Net's (Isensee 2021, 10.1038/s41592-020-01008-z), simplified: the median spacing, finer along an axis
that is much coarser than the others; a patch of the median size's shape, as large as memory allows; halving along each
axis as long as the axis is not coarser than the others and the patch is large enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.imaging.fingerprint import Fingerprint
from maml_app.imaging.volume import Array
from maml_app.network.ensemble import build_network
from maml_app.network.settings import Network

ANISOTROPIC = 3.0  # an axis so many times coarser than the finest gets a finer spacing than the median
SMALLEST = 4  # voxels along an axis at the coarsest level
LEVELS = 6
WIDEST = 320  # channels
LARGEST_BATCH = 8
OVERHEAD = 1.3  # what the allocator, gradients of activations and temporary results take beyond the saved activations

Ints = tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """What replaces the task's own values; `memory_gb` is what a step is estimated to take."""

    spacing_mm: tuple[float, float, float]
    patch: Ints
    batch: int
    channels: tuple[int, ...]
    strides: tuple[Ints, ...]
    windows_hu: dict[str, tuple[float, float]]
    memory_gb: float

    def applied(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a task.yaml with this plan in place of its own values."""
        modalities = [
            {**modality, "window": list(self.windows_hu[modality["name"]])}
            if modality["name"] in self.windows_hu
            else modality
            for modality in content["modalities"]
        ]
        network = {"channels": list(self.channels), "strides": [list(stride) for stride in self.strides]}
        training = {"patch": list(self.patch), "batch": self.batch}
        return {
            **content,
            "modalities": modalities,
            "preprocess": {**content["preprocess"], "spacing_mm": list(self.spacing_mm)},
            "network": {**content.get("network", {}), **network},
            "training": {**content.get("training", {}), **training},
        }


def make_plan(found: Fingerprint, spec: TaskSpec, memory_gb: float) -> Plan:
    """The plan for a task whose labelled cases were measured.

    Args:
        memory_gb: what one training step may take.

    Raises:
        TrainingError: not even the smallest patch fits.
    """
    spacing = _spacing(found)
    costs: dict[tuple[Ints, ...], Cost] = {}  # what a step takes changes with the levels alone, and with the voxels
    whole = np.maximum(1, np.round(found.median_size_mm / spacing))
    patch = np.maximum(2 * SMALLEST, whole)
    stem = np.array(spec.network.stem)
    while True:
        strides = _strides(patch / stem, spacing * stem)
        divisor = np.prod(strides, axis=0) * stem
        sides = _ints(np.maximum(1, np.round(patch / divisor)) * divisor)
        first = spec.network.channels[0]
        channels = tuple(min(first * 2**level, WIDEST) for level in range(len(strides)))
        network = spec.network.model_copy(update={"channels": channels, "strides": strides})
        costs[strides] = costs.get(strides) or step_cost(network, spec)
        needed = costs[strides].gb(sides)
        if needed <= memory_gb:
            break
        # the axis that covers most of the median image gives way
        shares = np.where(patch > 2 * SMALLEST, patch / whole, 0)
        if not shares.any():
            raise TrainingError(
                f"expected at least {needed:.2f} GB for a training step on a patch of {sides}, got {memory_gb:.2f}; "
                "allow more memory or lower network.channels in task.yaml"
            )
        patch[int(shares.argmax())] *= 0.9
    # two cases a step at least: the optimiser takes a batch in parts where memory is short
    batch = int(np.clip(memory_gb // needed, 2, LARGEST_BATCH))
    kept = [float(round(edge, 2)) for edge in spacing]
    return Plan((kept[0], kept[1], kept[2]), sides, batch, channels, strides, found.windows_hu, round(needed, 3))


def _spacing(found: Fingerprint) -> Array:
    """Median over cases; along an axis more than three times as coarse as the finest, the 10th percentile."""
    spacing = found.median_spacing_mm.copy()
    coarse = spacing > ANISOTROPIC * spacing.min()
    spacing[coarse] = np.maximum(np.percentile(found.spacing_mm, 10, axis=0)[coarse], spacing.min())
    return spacing


def _strides(patch: Array, spacing: Array) -> tuple[Ints, ...]:
    """(1, 1, 1), then 2 along each axis that is not coarser than twice the finest and stays large enough."""
    strides: list[Ints] = [(1, 1, 1)]
    sides, edges = patch.astype(float).copy(), spacing.astype(float).copy()
    while len(strides) < LEVELS:
        large = sides >= 2 * SMALLEST
        if not large.any():
            break
        halved = large & (edges < 2 * edges[large].min())
        strides.append(_ints(np.where(halved, 2, 1)))
        sides, edges = np.where(halved, sides / 2, sides), np.where(halved, edges * 2, edges)
    if len(strides) < 2:
        strides.append((1, 1, 1))
    return tuple(strides)


@dataclass(frozen=True)
class Cost:
    """What a training step on one case takes: bytes of activations a voxel of the patch, and of weights."""

    activations: float
    weights: float

    def gb(self, patch: Ints) -> float:
        """For a patch of so many voxels along each axis, GB."""
        # weights, gradients, and two moments of AdamW
        return float(OVERHEAD * self.activations * math.prod(patch) + 4 * self.weights) / 1e9


def step_cost(network: Network, spec: TaskSpec) -> Cost:
    """What training such a network takes, as autograd keeps it for a small patch."""
    divisor = np.array(network.divisor)
    # normalisation wants more than one voxel at the coarsest level
    small = _ints(divisor * np.maximum((2, 1, 1), 16 // divisor))
    module = build_network(len(spec.modalities), spec.classes, network).train()
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.zeros(1, len(spec.modalities), *small)
    presence = torch.ones(images.shape[:2], dtype=torch.bool)
    weights = sum(parameter.nbytes for parameter in module.parameters())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        parts = presence.repeat(len(spec.modalities) + 1 if spec.training.each_alone else 1, 1, 1)
        outputs = module(images, presence, parts)
        logits = [*outputs.fused, *outputs.parts]
        opinions = [level for _, levels in outputs.experts.values() for level in levels]
        torch.stack([torch.log_softmax(level, dim=1).sum() for level in [*logits, *opinions]]).sum()
    return Cost((sum(saved.values()) - weights) / math.prod(small), weights)


def _ints(values: Array) -> Ints:
    x, y, z = (int(value) for value in values)
    return x, y, z
