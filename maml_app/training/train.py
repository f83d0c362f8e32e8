"""Training: prepared cases, optimisation, validation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.disk import private_folder, workspace
from maml_app.errors import TrainingError
from maml_app.evaluation.evaluate import Segmenter, evaluate, score_case, skipping
from maml_app.evaluation.scores import ScoredCase, Scores, SubsetScore
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.training.dataset import Sample, build_samples, drop_old, load_sample, read_left_out
from maml_app.training.distributed import optimise_on, shared
from maml_app.training.load import Load
from maml_app.training.optimise import optimise, ranks
from maml_app.training.progress import Progress, Report, counted
from maml_app.training.recipe import Recipe, tell_nobody
from maml_app.training.split import split
from maml_app.training.teaching import unlabelled
from maml_app.version import VERSION

DEFAULT = Recipe()


@dataclass(frozen=True)
class Trained:
    """A trained network, what goes into its file, and its scores on the validation cases (None without any)."""

    network: SegmentationNetwork
    checkpoint: Checkpoint
    validation: Scores | None
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class _Sorting:
    """Cases that turn out to be unusable, and images that others do without: each told once."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.refused: dict[str, str] = {}
        self.left_out: dict[str, dict[str, str]] = {}

    def skip(self, case_id: str, reason: str) -> None:
        if case_id not in self.refused:
            self.refused[case_id] = reason
            self._tell(f"{case_id} is not used: {reason}")

    def cannot_teach(self, case_id: str, reason: str) -> None:
        """A case without a label, which nobody counts on."""
        self._tell(f"{case_id} has no label and cannot teach without: {reason}")

    def prepared(self, samples: Mapping[str, Path]) -> None:
        """Say which images the prepared cases do without, and what no case shows.

        Raises:
            TrainingError: there is no case, or nothing is labelled in any.
        """
        if not samples:
            raise TrainingError(f"no labelled case can be used: {'; '.join(self.refused.values())}")
        for case_id, folder in samples.items():
            reasons = read_left_out(folder)
            if reasons:
                self.left_out[case_id] = reasons
                told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
                self._tell(f"{case_id} is used without {told}")

    def content(self, samples: Sequence[Sample], spec: TaskSpec) -> None:
        """Say which labels and modalities no case shows.

        Raises:
            TrainingError: nothing is labelled in any case.
        """
        shown = {value for sample in samples for value in sample.values}
        if not shown:
            raise TrainingError(
                f"expected something labelled in at least one case, got {len(samples)} labels that are all empty"
            )
        labels = [name for value, name in spec.label_values.items() if value not in shown]
        there = np.any([sample.presence for sample in samples], axis=0)
        images = [name for name, has in zip(spec.modality_names, there, strict=True) if not has]
        for what, names in (("label", labels), ("modality", images)):
            if names:
                self._tell(f"no training case has the {what} {', '.join(names)}: it cannot be learned")

    def _tell(self, text: str) -> None:
        self.report(Progress("prepare", 0, 1, {}, note=text))


def train(spec: TaskSpec, cases: Sequence[Case], recipe: Recipe = DEFAULT) -> Trained:
    """Train on labelled cases, keep some patients aside for validation, and score them under every subset.

    Under torchrun every process calls this alike; only rank 0 prepares cases, reports and validates.

    Args:
        spec: the task; its `training` section holds steps, patch, batch, learning rate and loss weights.
        cases: those with a final label are used, others where `training.unlabelled` asks for them; one that turns out
            to be unusable is told of and left out.

    Raises:
        TrainingError: no labelled case that can be used, nothing labelled in any, out of memory, or a loss that is no
            number any more.
    """
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise TrainingError(f"expected at least one case with a final label, got none among {len(cases)} cases")
    training, held_out = split(labelled, spec.training.validation)
    sorting = _Sorting(recipe.report)
    began = time.monotonic()
    rank, world = ranks()
    with workspace(private_folder("training")) as folder:
        home = recipe.prepared or folder / "prepared"
        samples: dict[str, Path] = {}
        if rank == 0:
            pupils = unlabelled(cases, spec)
            tick = counted("prepare", len(training) + len(pupils), recipe.report)
            samples = build_samples(training, spec, home, tick, sorting.skip)
            sorting.prepared(samples)
            sorting.content([load_sample(*item) for item in samples.items()], spec)
            samples |= build_samples(pupils, spec, home, tick, sorting.cannot_teach)
            drop_old(home, set(samples.values()), recipe.prepared_gb)
        samples = shared(samples)
        if len(recipe.devices) > 1:
            work = folder / "work"
            work.mkdir()
            network = optimise_on(spec, samples, recipe, work)
            load = Load(len(recipe.devices), spec.training.patch)
        else:
            check = None
            if held_out and rank == 0:
                check = partial(_scores, cases=held_out, spec=spec, device=recipe.device)
            told = recipe if rank == 0 else replace(recipe, report=tell_nobody)
            network, load = optimise(spec, [load_sample(*item) for item in samples.items()], told, check)
        validation = None
        if held_out and rank == 0:
            tick = counted("validate", len(held_out), recipe.report)
            segmenter = Segmenter(network, spec, spec.training.patch, recipe.device)
            validation = evaluate(segmenter, held_out, tick, sorting.skip)
            validation = validation if validation.cases else None
    validated = validation.cases if validation else {}
    on_gpu = recipe.device.type == "cuda"
    notes = {
        "seed": recipe.seed,
        "steps": spec.training.steps,
        "warm_start": recipe.start is not None,
        "trained_on": {case.id: case.label.id for case in training if case.label and case.id in samples},
        "taught_without_label": sorted(set(samples) - {case.id for case in training}),
        "validated_on": {case.id: case.label.id for case in held_out if case.label and case.id in validated},
        "inherited": dict(recipe.inherited) if recipe.start else {},
        "patients": {case.id: case.patient_id for case in cases if case.label or case.id in samples},
        "refused": sorting.refused,
        "left_out": sorting.left_out,
        "validation": validation.summary() if validation else None,
        "device": torch.cuda.get_device_name(recipe.device) if on_gpu else "cpu",
        "processes": max(world, len(recipe.devices), 1),
        "load": {"parts": load.parts, "patch": list(load.patch)},
        "program": f"maml_app {VERSION}",
        "seconds": round(time.monotonic() - began, 1),
    }
    return Trained(network, _checkpoint(spec, notes), validation, sorting.refused, sorting.left_out)


def _checkpoint(spec: TaskSpec, notes: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        task=spec.name,
        signature=spec.signature(),
        modalities=len(spec.modalities),
        classes=spec.classes,
        network=spec.network,
        patch=spec.training.patch,
        notes=notes,
    )


def cross_validate(spec: TaskSpec, cases: Sequence[Case], folds: int, recipe: Recipe = DEFAULT) -> Scores | None:
    """Scores by patient-level cross-validation, for the time in which too few patients are labelled to keep any aside.

    Every patient is scored by a network that was trained, from new weights, on the others; leave-one-out where there
    are no more patients than folds; None with fewer than two patients.
    """
    labelled = [case for case in cases if case.label is not None]
    sorting = _Sorting(recipe.report)
    patients = sorted({case.patient_id for case in labelled})
    folds = min(folds, len(patients))
    if folds < 2:
        return None
    alone = spec.model_copy(update={"training": spec.training.model_copy(update={"validation": 0.0})})
    scored: dict[str, ScoredCase] = {}
    for fold in range(folds):
        held = set(patients[fold::folds])

        def of_fold(progress: Progress, fold: int = fold) -> None:
            recipe.report(replace(progress, stage=f"fold {fold + 1} of {folds}: {progress.stage}"))

        kept = [case for case in cases if case.patient_id not in held]
        result = train(alone, kept, replace(recipe, start=None, weights={}, report=of_fold))
        segmenter = Segmenter(result.network, spec, spec.training.patch, recipe.device)
        for case in labelled:
            if case.patient_id in held:
                with skipping(case, sorting.skip):
                    scored[case.id] = score_case(segmenter, case)
    return Scores.of_cases(spec, scored)


def _scores(
    network: SegmentationNetwork, cases: Sequence[Case], spec: TaskSpec, device: torch.device
) -> Mapping[str, SubsetScore]:
    # what cannot be used is told at the end
    segmenter = Segmenter(network, spec, spec.training.patch, device)
    return evaluate(segmenter, cases, skip=lambda case_id, reason: None).subsets
