"""Training: prepared cases, optimisation, validation."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.evaluation.evaluate import Segmenter, evaluate, score_case
from maml_app.evaluation.scores import CaseDice, Scores, SubsetScore
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.training.dataset import PatchSource, build_samples, load_sample
from maml_app.training.distributed import optimise_on, shared
from maml_app.training.load import Load
from maml_app.training.optimise import optimise, ranks
from maml_app.training.progress import Progress, counted
from maml_app.training.recipe import Recipe, tell_nobody
from maml_app.training.split import split
from maml_app.version import VERSION

DEFAULT = Recipe()


@dataclass(frozen=True)
class Trained:
    """A trained network, what goes into its file, and its scores on the validation cases (None without any)."""

    network: SegmentationNetwork
    checkpoint: Checkpoint
    validation: Scores | None


def train(spec: TaskSpec, cases: Sequence[Case], recipe: Recipe = DEFAULT) -> Trained:
    """Train on labelled cases, keep some patients aside for validation, and score them under every subset.

    Under torchrun every process calls this alike; only rank 0 prepares cases, reports and validates.

    Args:
        spec: the task; its `training` section holds steps, patch, batch, learning rate and loss weights.
        cases: those with a final label are used.

    Raises:
        TrainingError: no labelled case, no modality anywhere, out of memory, or a loss that is no number any more.
    """
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise TrainingError(f"expected at least one case with a final label, got none among {len(cases)} cases")
    training, held_out = split(labelled, spec.training.validation)
    began = time.monotonic()
    rank, world = ranks()
    with tempfile.TemporaryDirectory(prefix="maml-train-") as folder:
        home = recipe.prepared or Path(folder) / "prepared"
        samples: dict[str, Path] = {}
        if rank == 0:
            tick = counted("prepare", len(training), recipe.report)
            samples = build_samples(training, spec, home, tick, recipe.prepared_gb)
        samples = shared(samples)
        if len(recipe.devices) > 1:
            work = Path(folder) / "work"
            work.mkdir()
            network = optimise_on(spec, samples, recipe, work)
            load = Load(len(recipe.devices), spec.training.patch)
        else:
            check = None
            if held_out and rank == 0:
                check = partial(_scores, cases=held_out, spec=spec, device=recipe.device)
            source = PatchSource([load_sample(*item) for item in samples.items()], spec, recipe.seed, recipe.weights)
            told = recipe if rank == 0 else replace(recipe, report=tell_nobody)
            network, load = optimise(spec, source, told, check)
        validation = None
        if held_out and rank == 0:
            tick = counted("validate", len(held_out), recipe.report)
            validation = evaluate(Segmenter(network, spec, spec.training.patch, recipe.device), held_out, tick)
    on_gpu = recipe.device.type == "cuda"
    notes = {
        "seed": recipe.seed,
        "steps": spec.training.steps,
        "warm_start": recipe.start is not None,
        "trained_on": {case.id: case.label.id for case in training if case.label},
        "validated_on": {case.id: case.label.id for case in held_out if case.label},
        "validation": validation.summary() if validation else None,
        "device": torch.cuda.get_device_name(recipe.device) if on_gpu else "cpu",
        "processes": max(world, len(recipe.devices), 1),
        "load": {"parts": load.parts, "patch": list(load.patch)},
        "program": f"maml_app {VERSION}",
        "seconds": round(time.monotonic() - began, 1),
    }
    return Trained(network, _checkpoint(spec, notes), validation)


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
    patients = sorted({case.patient_id for case in labelled})
    folds = min(folds, len(patients))
    if folds < 2:
        return None
    alone = spec.model_copy(update={"training": spec.training.model_copy(update={"validation": 0.0})})
    scored: dict[str, CaseDice] = {}
    for fold in range(folds):
        held = set(patients[fold::folds])

        def of_fold(progress: Progress, fold: int = fold) -> None:
            recipe.report(replace(progress, stage=f"fold {fold + 1} of {folds}: {progress.stage}"))

        kept = [case for case in labelled if case.patient_id not in held]
        result = train(alone, kept, replace(recipe, start=None, weights={}, report=of_fold))
        segmenter = Segmenter(result.network, spec, spec.training.patch, recipe.device)
        for case in labelled:
            if case.patient_id in held:
                scored[case.id] = score_case(segmenter, case)
    return Scores.of(spec, scored)


def _scores(
    network: SegmentationNetwork, cases: Sequence[Case], spec: TaskSpec, device: torch.device
) -> Mapping[str, SubsetScore]:
    return evaluate(Segmenter(network, spec, spec.training.patch, device), cases).subsets
