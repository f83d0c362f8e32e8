"""Prepared cases on disk, and patches drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.imaging.augment import MARGIN, apply, draw
from maml_app.imaging.preprocess import prepare, prepare_label
from maml_app.imaging.volume import Array

SEEDS_PER_LABEL = 2000  # foreground voxels remembered for each label of a case


@dataclass(frozen=True)
class Sample:
    """One prepared case: images (M, X, Y, Z) and label (X, Y, Z) mapped from disk, and foreground places a label."""

    case_id: str
    images: Array
    label: Array
    presence: Array
    places: tuple[Array, ...]


def build_samples(
    cases: Sequence[Case], spec: TaskSpec, folder: Path, tick: Callable[[str], None] = lambda case_id: None
) -> list[Sample]:
    """Prepare labelled cases into memory-mapped files under `folder`, half precision.

    Raises:
        CaseError: a case that cannot be prepared; the message names it.
    """
    samples = []
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        prepared = prepare(case, spec)
        label = prepare_label(case, spec, prepared.grid)
        np.save(folder / f"{case.id}-images.npy", prepared.images.numpy().astype(np.float16))
        np.save(folder / f"{case.id}-label.npy", label)
        places = []
        for value in spec.label_values:
            found = np.argwhere(label == value)
            if len(found):
                places.append(rng.permutation(found)[:SEEDS_PER_LABEL])
        samples.append(
            Sample(
                case.id,
                np.load(folder / f"{case.id}-images.npy", mmap_mode="r"),
                np.load(folder / f"{case.id}-label.npy", mmap_mode="r"),
                prepared.presence.numpy(),
                tuple(places),
            )
        )
        tick(case.id)
    return samples


@dataclass(frozen=True)
class Batch:
    """images (B, M, X, Y, Z), label (B, X, Y, Z) int64, presence and a random non-empty part of it (B, M) bool."""

    images: torch.Tensor
    label: torch.Tensor
    presence: torch.Tensor
    subset: torch.Tensor


class PatchSource:
    """Augmented batches; the batch of a step depends on the seed and the step alone, so that runs can be repeated."""

    def __init__(self, samples: Sequence[Sample], spec: TaskSpec, seed: int) -> None:
        self.samples = samples
        self.spec = spec
        self.seed = seed

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        training = self.spec.training
        rows = []
        for slot in range(training.batch):
            # every case once an epoch, in a new order each time
            position = step * training.batch + slot
            order = np.random.default_rng((self.seed, position // len(self.samples))).permutation(len(self.samples))
            sample = self.samples[order[position % len(self.samples)]]
            images, label = self._patch(sample, rng)
            presence = torch.from_numpy(sample.presence.copy())
            images = images * presence[:, None, None, None]
            rows.append((images, label, presence, draw_subset(presence, rng)))
        images, label, presence, subset = (torch.stack(list(column)) for column in zip(*rows, strict=True))
        return Batch(images, label.long(), presence, subset)

    def _patch(self, sample: Sample, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        patch = np.array(self.spec.training.patch)
        size = np.ceil(patch * MARGIN).astype(int)
        shape = np.array(sample.label.shape)
        if sample.places and rng.random() < self.spec.training.foreground:
            places = sample.places[rng.integers(len(sample.places))]
            centre = places[rng.integers(len(places))] + rng.integers(-patch // 4, patch // 4 + 1)
        else:
            centre = rng.integers(0, shape)
        # stay inside the image where it is large enough, else keep it in the middle
        start = np.where(shape > size, np.clip(centre - size // 2, 0, np.maximum(shape - size, 0)), (shape - size) // 2)
        images, label = _cut(sample.images, start, size), _cut(sample.label[None], start, size, fill=0)
        chosen = draw(rng, len(images), self.spec.training.flips, self.spec.preprocess.spacing_mm)
        return apply(
            torch.from_numpy(images.astype(np.float32)),
            torch.from_numpy(label[0].astype(np.int64)),
            patch.tolist(),
            chosen,
        )


def _cut(voxels: Array, start: Array, size: Array, fill: float | None = None) -> Array:
    """Cut (C, X, Y, Z) from `start`, padding with `fill`, else each channel's lowest, where it reaches outside."""
    low, high = np.maximum(start, 0), np.minimum(start + size, voxels.shape[1:])
    inner = np.asarray(voxels[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]])
    before, after = low - start, start + size - high
    if not (before.any() or after.any()):
        return inner
    pads = [(int(b), int(a)) for b, a in zip(before, after, strict=True)]
    values = [channel.min() if fill is None else fill for channel in inner]
    return np.stack([np.pad(one, pads, constant_values=value) for one, value in zip(inner, values, strict=True)])


def draw_subset(presence: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random non-empty subset of the present modalities: first its size, evenly, then its members."""
    present = np.flatnonzero(presence.numpy())
    chosen = rng.permutation(present)[: rng.integers(1, len(present) + 1)]
    subset = torch.zeros_like(presence)
    subset[torch.from_numpy(chosen)] = True
    return subset
