"""A trained network at work on a prompt: what it is shown, and how likely each voxel belongs to the label then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from maml_app.correcting.classifier import Classifier
from maml_app.correcting.marks import KEPT_MM, REACH_MM, Crop, Mark, Scene
from maml_app.correcting.view import View, logit
from maml_app.imaging.volume import Array
from maml_app.network.refine import DIVISOR, Refiner

LARGEST_VOX = 48  # a side of the crop around one place, on fine grids
NEAR_MM = KEPT_MM  # further away, distances to prompts and to the border of the mask count alike
RESERVE = 0.12  # of probability, beyond a half: without it three times as many clicks made a label worse
UNIT = 4.0  # of logits: about as wide as normalised images then


@dataclass(frozen=True, eq=False)
class Refinement:
    """A network that was trained on the clicks of played annotators, beside the classifier of the case.

    The mean of both is better than either: the network knows how structures continue, the classifier this case.
    """

    network: Refiner
    classifier: Classifier = field(default_factory=Classifier)

    def half(self, spacing_mm: Sequence[float]) -> Array:
        """Half the sides (3,) of the crop around a place that it looks at, voxels."""
        return self.classifier.half(spacing_mm)

    def likely(self, scene: Scene, view: View) -> Array:
        """How likely each voxel belongs to the structure, (X, Y, Z), less what speaks against a change."""
        crop = Crop(scene.newest.places, half(scene.spacing_mm), scene.mask.shape)
        part = crop.scene(scene.mask, [(mark.places, mark.says) for mark in scene.marks], scene.spacing_mm)
        by_network = scene.mask.astype(np.float64)
        by_network[crop.box] = self._answer(shown(part, view.cut(crop.box), crop, self.network.modalities), crop)
        likely = (by_network + self.classifier.likely(scene, view)) / 2
        return np.asarray(likely - RESERVE if scene.newest.says else likely + RESERVE)

    @torch.inference_mode()
    def _answer(self, channels: torch.Tensor, crop: Crop) -> Array:
        # mirrored too: steadier; and torch takes a slow way for a small crop alone, oneDNN's for two of them
        straight, mirrored = self.network(torch.stack([channels, channels.flip(1)]))
        return np.asarray(torch.sigmoid((straight + mirrored.flip(0)) / 2)[crop.inner].numpy())


def half(spacing_mm: Sequence[float]) -> Array:
    """Half the sides (3,) of the network's crop around a place, voxels: as far as it reaches, on fine grids less."""
    sides = np.ceil((2 * REACH_MM / np.array(spacing_mm) + 1) / DIVISOR) * DIVISOR
    halves: Array = np.minimum(sides, LARGEST_VOX).astype(int) // 2
    return halves


def shown(scene: Scene, view: View, crop: Crop, modalities: int) -> torch.Tensor:
    """The network's channels (C, X, Y, Z) on the whole crop; beyond the image its last voxels go on.

    Args:
        scene, view: what of the crop lies in the image.
        modalities: how many the task has.
    """
    nothing = np.zeros(scene.mask.shape, np.float32)
    channels = []
    for index in range(modalities):
        there = index in view.images
        channels += [view.images.get(index, nothing), nothing + there]
        channels.append(logit(view.experts[index]) / UNIT if index in view.experts else nothing)
    channels.append(nothing if view.fused is None else logit(view.fused) / UNIT)
    channels.append(np.where(scene.mask, 1, -1) * np.minimum(scene.depth, NEAR_MM) / NEAR_MM)
    channels += [_nearness(scene, says) for says in (True, False)]
    channels.append(_call(scene.newest))
    return filled(np.stack(channels), crop)


def filled(channels: Array, crop: Crop) -> torch.Tensor:
    """What is known of the part of an image in a crop (C, x, y, z), on the whole crop (C, X, Y, Z), float32."""
    after = crop.sides - crop.before - crop.size
    pads = [int(pad) for pair in zip(crop.before[::-1], after[::-1], strict=True) for pad in pair]
    return F.pad(torch.from_numpy(channels.astype(np.float32))[None], pads, mode="replicate")[0]


def _nearness(scene: Scene, says: bool) -> Array:
    """1 at a prompt that says so, falling to 0 around it.

    Distances are Euclidean: as a guidance they did better than Gaussians in autoPET IV (arXiv 2508.21680).
    """
    away = [mark.away for mark in scene.marks if mark.says == says]
    return np.maximum(1 - np.min(away, axis=0) / NEAR_MM, 0) if away else np.zeros(scene.mask.shape)


def _call(newest: Mark) -> Array:
    """Where the newest prompt reaches, and what it says: 1 or -1 at its places."""
    return np.asarray(np.maximum(1 - newest.away / newest.reach, 0) * (1 if newest.says else -1))
