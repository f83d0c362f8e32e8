"""The training loop."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.learning.dataset import Batch, PatchSource, build_samples
from maml_app.learning.evaluate import evaluate
from maml_app.learning.split import split
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.network.losses import MutualLearningLoss


@dataclass(frozen=True)
class Progress:
    """Where training stands: `stage` is prepare, train or validate; `losses` the weighted terms, averaged lately."""

    stage: str
    done: int
    total: int
    losses: dict[str, float]
    seconds_left: float | None = None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {self.seconds_left / 60:.1f} min left"
        terms = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items() if name != "total")
        loss = f": loss {self.losses['total']:.3f} ({terms})" if self.losses else ""
        return f"{self.stage} {self.done}/{self.total}{loss}{left}"


@dataclass(frozen=True)
class Trained:
    """A trained network, what goes into its file, and its scores on the validation cases (None without any)."""

    network: SegmentationNetwork
    checkpoint: Checkpoint
    validation: dict[str, Any] | None


def train(
    spec: TaskSpec,
    cases: Sequence[Case],
    *,
    seed: int = 0,
    device: torch.device | None = None,
    start: SegmentationNetwork | None = None,
    workspace: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train on labelled cases, keep some patients aside for validation, and score them under every subset.

    Args:
        spec: the task; its `training` section holds steps, patch, batch, learning rate and loss weights.
        cases: cases with a final label.
        start: a network to go on from (warm start), else new weights drawn from the seed.
        workspace: where prepared cases are kept meanwhile; the system's temporary folder if None.
        report: called with the progress, a few times a minute at least.

    Raises:
        TrainingError: no labelled case, no modality anywhere, or a loss that is no number any more.
    """
    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise TrainingError(f"expected at least one case with a final label, got none among {len(cases)} cases")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, held_out = split(labelled, spec.training.validation)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prepared-", dir=workspace) as folder:
        prepared: list[str] = []

        def prepared_one(case_id: str) -> None:
            prepared.append(case_id)
            report(Progress("prepare", len(prepared), len(training), {}))

        samples = build_samples(training, spec, Path(folder), prepared_one)
        network = _optimise(spec, PatchSource(samples, spec, seed), seed, device, start, report)
    validation = None
    if held_out:
        scored: list[str] = []

        def scored_one(case_id: str) -> None:
            scored.append(case_id)
            report(Progress("validate", len(scored), len(held_out), {}))

        validation = evaluate(network, held_out, spec, spec.training.patch, device, scored_one)
    checkpoint = Checkpoint(
        task=spec.name,
        signature=spec.signature(),
        modalities=len(spec.modalities),
        classes=spec.classes,
        plan=spec.network.model_dump(mode="json"),
        patch=spec.training.patch,
        notes={
            "seed": seed,
            "steps": spec.training.steps,
            "warm_start": start is not None,
            "trained_on": {case.id: case.label.id for case in training if case.label},
            "validated_on": {case.id: case.label.id for case in held_out if case.label},
            "validation": None if validation is None else {key: validation[key] for key in ("subsets", "mean", "full")},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "seconds": round(time.monotonic() - began, 1),
        },
    )
    return Trained(network, checkpoint, validation)


def _optimise(
    spec: TaskSpec,
    source: PatchSource,
    seed: int,
    device: torch.device,
    start: SegmentationNetwork | None,
    report: Callable[[Progress], None],
) -> SegmentationNetwork:
    """AdamW with a short warm-up and a cosine, gradient clipping, bfloat16 on CUDA; returns averaged weights (EMA)."""
    steps = spec.training.steps
    torch.manual_seed(seed)
    plan = spec.network.model_dump()
    network = copy.deepcopy(start) if start else build_network(len(spec.modalities), spec.classes, plan)
    network = network.to(device).train()
    criterion = MutualLearningLoss(spec.training.loss.model_dump())
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.training.learning_rate, weight_decay=1e-2)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
    )
    # an average over about the last tenth of the run
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(2.0, steps / 10)))
    recent: dict[str, list[float]] = {}
    began = last = time.monotonic()
    for step in range(steps):
        batch = _to(source.batch(step), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            outputs = network(batch.images, batch.presence, batch.subset)
        terms = criterion(outputs, batch.label)
        if not torch.isfinite(terms["total"]):
            raise TrainingError(
                f"step {step + 1}: expected a finite loss, got {terms['total'].item()}; "
                "lower training.learning_rate in task.yaml"
            )
        optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        for name, value in terms.items():
            recent.setdefault(name, []).append(float(value.detach()))
        now = time.monotonic()
        if now - last > 5 or step + 1 == steps or step == 0:
            left = (now - began) / (step + 1) * (steps - step - 1)
            means = {name: sum(values) / len(values) for name, values in recent.items()}
            report(Progress("train", step + 1, steps, means, left))
            recent, last = {}, now
    result = average.module
    assert isinstance(result, type(network))
    return result.eval()


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.images.to(device), batch.label.to(device), batch.presence.to(device), batch.subset.to(device))
