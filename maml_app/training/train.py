"""Training: prepared cases, optimisation, validation."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.evaluation.evaluate import evaluate, score_case
from maml_app.evaluation.scores import CaseDice, Scores, SubsetScore
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.training.dataset import PatchSource, build_samples, load_sample
from maml_app.training.distributed import optimise_on, shared
from maml_app.training.optimise import Load, Progress, Report, optimise, ranks
from maml_app.training.split import split

PROGRAM = "maml_app 0.1.0"  # as in pyproject.toml


@dataclass(frozen=True)
class Trained:
    """A trained network, what goes into its file, and its scores on the validation cases (None without any)."""

    network: SegmentationNetwork
    checkpoint: Checkpoint
    validation: Scores | None


def train(
    spec: TaskSpec,
    cases: Sequence[Case],
    *,
    seed: int = 0,
    device: torch.device | None = None,
    start: SegmentationNetwork | None = None,
    prepared: Path | None = None,
    prepared_gb: float = 20.0,
    weights: dict[str, int] | None = None,
    devices: Sequence[torch.device] = (),
    report: Report = lambda progress: None,
    wait: Callable[[], float] = lambda: 0.0,
    parts: int = 1,
) -> Trained:
    """Train on labelled cases, keep some patients aside for validation, and score them under every subset.

    Under torchrun every process calls this alike; only rank 0 prepares cases, reports and validates.

    Args:
        spec: the task; its `training` section holds steps, patch, batch, learning rate and loss weights.
        cases: cases with a final label.
        start: a network to go on from (warm start), else new weights drawn from the seed.
        prepared: where prepared cases are kept for the next time, at most `prepared_gb`; a temporary folder if None.
        weights: case id -> how many times an epoch it is drawn.
        devices: two or more: one process is started for each.
        report: called with the progress, a few times a minute at least.
        wait: called before each step, to let others go first.
        parts: in how many parts a batch is taken.

    Raises:
        TrainingError: no labelled case, no modality anywhere, out of memory, or a loss that is no number any more.
    """
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise TrainingError(f"expected at least one case with a final label, got none among {len(cases)} cases")
    device = device or (devices[0] if devices else torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    training, held_out = split(labelled, spec.training.validation)
    began = time.monotonic()
    rank, world = ranks()
    count = max(world, len(devices), 1)
    with tempfile.TemporaryDirectory(prefix="maml-train-") as folder:
        home = prepared or Path(folder) / "prepared"
        samples: dict[str, Path] = {}
        if rank == 0:
            samples = build_samples(training, spec, home, _counted("prepare", len(training), report), prepared_gb)
        samples = shared(samples)
        if len(devices) > 1:
            work = Path(folder) / "work"
            work.mkdir()
            network = optimise_on(devices, spec, samples, seed, start, report, work, weights)
            load = Load(len(devices), spec.training.patch)
        else:
            check = None
            if held_out and rank == 0:
                check = partial(_scores, cases=held_out, spec=spec, device=device)
            source = PatchSource([load_sample(*item) for item in samples.items()], spec, seed, weights)
            network, load = optimise(
                spec, source, seed, device, start, report if rank == 0 else lambda progress: None, wait, parts, check
            )
        validation = None
        if held_out and rank == 0:
            tick = _counted("validate", len(held_out), report)
            validation = evaluate(network, held_out, spec, spec.training.patch, device, tick)
    checkpoint = Checkpoint(
        task=spec.name,
        signature=spec.signature(),
        modalities=len(spec.modalities),
        classes=spec.classes,
        network=spec.network,
        patch=spec.training.patch,
        notes={
            "seed": seed,
            "steps": spec.training.steps,
            "warm_start": start is not None,
            "trained_on": {case.id: case.label.id for case in training if case.label},
            "validated_on": {case.id: case.label.id for case in held_out if case.label},
            "validation": validation.summary() if validation else None,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "processes": count,
            "load": {"parts": load.parts, "patch": list(load.patch)},
            "program": PROGRAM,
            "seconds": round(time.monotonic() - began, 1),
        },
    )
    return Trained(network, checkpoint, validation)


def cross_validate(
    spec: TaskSpec,
    cases: Sequence[Case],
    folds: int,
    *,
    seed: int,
    device: torch.device,
    prepared: Path | None = None,
    report: Report = lambda progress: None,
    wait: Callable[[], float] = lambda: 0.0,
) -> Scores | None:
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
            report(replace(progress, stage=f"fold {fold + 1} of {folds}: {progress.stage}"))

        kept = [case for case in labelled if case.patient_id not in held]
        result = train(alone, kept, seed=seed, device=device, prepared=prepared, report=of_fold, wait=wait)
        for case in labelled:
            if case.patient_id in held:
                scored[case.id] = score_case(result.network, case, spec, spec.training.patch, device)
    return Scores.of(spec, scored)


def _scores(
    network: SegmentationNetwork, cases: Sequence[Case], spec: TaskSpec, device: torch.device
) -> Mapping[str, SubsetScore]:
    return evaluate(network, cases, spec, spec.training.patch, device).subsets


def _counted(stage: str, total: int, report: Report) -> Callable[[str], None]:
    done: list[str] = []

    def tick(case_id: str) -> None:
        done.append(case_id)
        report(Progress(stage, len(done), total, {}))

    return tick
