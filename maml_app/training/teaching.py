"""Cases that nobody has labelled teach too: where the whole ensemble is sure of one, it is a label for all its parts.

The teacher is the average of the weights so far (mean teacher, arXiv 1703.01780), with all modalities of the case, not
augmented, in overlapping windows; the pupils see augmented patches: the fused answer, parts of the modalities, and each
expert (noisy student, arXiv 1911.04252; MAML's mutual learning needs no truth either).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.network.window import predict
from maml_app.training.dataset import UNKNOWN, PatchSource, Sample, seeds
from maml_app.training.recipe import Recipe
from maml_app.training.split import is_validation

SURE = 0.9  # a class of so much probability is taken for true
FIRST = 0.4  # of the steps: what a network with new weights learns from labels alone
ROUNDS = 2  # so often all cases are labelled anew


def unlabelled(cases: Sequence[Case], spec: TaskSpec) -> list[Case]:
    """The cases without a final label that are to teach, the same ones each time; none of a validation patient."""
    training = spec.training
    if not training.unlabelled:
        return []
    there = [
        case
        for case in cases
        if case.label is None and not case.problems and not is_validation(case.patient_id, training.validation)
    ]
    there.sort(key=lambda case: hashlib.sha256(case.id.encode()).digest())
    return there[: training.unlabelled_cases]


class Teaching:
    """The patches of unlabelled cases, step by step.

    Args:
        samples: those without a label are taught with.
        folder: for labels; it must exist.
    """

    def __init__(self, samples: Sequence[Sample], spec: TaskSpec, recipe: Recipe, folder: Path) -> None:
        self.samples = [sample for sample in samples if sample.label is None]
        self.spec = spec
        self.recipe = recipe
        self.folder = folder
        steps = spec.training.steps
        begin = 0 if recipe.start else round(FIRST * steps)
        self.lessons = {begin + number * (steps - begin) // ROUNDS for number in range(ROUNDS)} if self.samples else ()
        self._patches: PatchSource | None = None

    def at(
        self, step: int, teacher: SegmentationNetwork, note: Callable[[str], None]
    ) -> list[tuple[PatchSource, float]]:
        """The patches of a step and what their loss weighs; none before the teacher has learnt enough to be asked."""
        if step in self.lessons:
            self._patches = self._labelled(step, teacher, note)
        return [(self._patches, self.spec.training.unlabelled)] if self._patches else []

    def _labelled(self, step: int, teacher: SegmentationNetwork, note: Callable[[str], None]) -> PatchSource | None:
        was = teacher.training
        files = [self.folder / f"{step}-{number}.npy" for number in range(len(self.samples))]
        found = [self._taught(*each, teacher) for each in zip(self.samples, files, strict=True)]
        teacher.train(was)
        # what shows nothing to the teacher may be what it misses
        useful = [sample for sample in found if sample.values]
        note(f"from step {step + 1} on {len(useful)} of {len(found)} cases teach that nobody has labelled")
        return PatchSource(useful, self.spec, self.recipe.seed + 1) if useful else None

    def _taught(self, sample: Sample, path: Path, teacher: SegmentationNetwork) -> Sample:
        """The case with what the teacher is sure of as its label, kept under `path`."""
        device = next(teacher.parameters()).device
        images = torch.from_numpy(sample.images.astype(np.float32)).to(device)
        presence = torch.from_numpy(sample.presence).to(device)
        sure, label = predict(teacher, images, presence, self.spec.training.patch).max(dim=0)
        label[sure < SURE] = UNKNOWN
        np.save(path, label.numpy().astype(np.int16))
        places = seeds(label.numpy(), self.spec)
        return replace(sample, label=np.load(path, mmap_mode="r"), places=tuple(places.values()), values=tuple(places))
