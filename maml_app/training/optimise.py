"""The optimisation: steps on patches, in parts that fit into memory, on one process or on several alike.

A batch is cut into parts whose losses are averaged. With several processes (torch.distributed, DDP) each takes its
parts of the same batch, so that their result is that of one process which takes the parts one after another.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from maml_app.cases.spec import TaskSpec
from maml_app.disk import private_folder, workspace
from maml_app.errors import TrainingError
from maml_app.evaluation.scores import SubsetScore
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.network.losses import MutualLearningLoss
from maml_app.training.dataset import Batch, PatchSource, Sample
from maml_app.training.load import Load
from maml_app.training.progress import Meter
from maml_app.training.recipe import Recipe
from maml_app.training.teaching import Teaching

Check = Callable[[SegmentationNetwork], Mapping[str, SubsetScore]]


def ranks() -> tuple[int, int]:
    """This process' rank and how many there are; (0, 1) without torch.distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def optimise(
    spec: TaskSpec, samples: Sequence[Sample], recipe: Recipe, check: Check | None = None
) -> tuple[SegmentationNetwork, Load]:
    """Steps with gradient clipping, bfloat16 on CUDA; returns averaged weights (EMA) where the task asks for them.

    Args:
        samples: those without a label teach as `training.unlabelled` says.
        check: scores a network on the validation cases; called `training.checks` times in the course of the run.

    Raises:
        TrainingError: out of memory even with the smallest patches, or a loss that is no number any more.
    """
    _, world = ranks()
    steps, device = spec.training.steps, recipe.device
    if spec.training.batch < world:
        raise TrainingError(
            f"expected training.batch of at least {world} for {world} processes, got {spec.training.batch}"
        )
    torch.manual_seed(recipe.seed)
    network = _network(spec, recipe).to(device).train()
    model: torch.nn.Module = network
    if world > 1:
        # which experts a rank runs depends on the modalities that its cases have
        model = DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
        )
    # an average over about the last tenth of the run
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(2.0, steps / 10)))  # type: ignore[no-untyped-call]
    teacher = average.module
    assert isinstance(teacher, SegmentationNetwork)
    result = teacher if spec.training.ema else network
    load = Load(max(recipe.parts, world), spec.training.patch)
    labelled = [sample for sample in samples if sample.label is not None]
    source = PatchSource(labelled, spec, recipe.seed, recipe.weights)
    meter = Meter(recipe.report, steps, source.steps_an_epoch)
    looks = _looks(steps, spec.training.checks) if check else set()
    criterion = MutualLearningLoss(spec.training.loss, list(spec.scored.values()))
    optimiser, schedule = optimiser_of(spec, network)

    def lighten() -> bool:
        return world == 1 and load.lighter(spec)

    with workspace(private_folder("training")) as folder:
        teaching = Teaching(samples, spec, recipe, folder)
        for step in range(steps):
            meter.waited_s += recipe.wait()
            sources = [(source, 1.0), *teaching.at(step, teacher, meter.note)]
            parts = partial(_gradients, model, criterion, sources, step, load)
            terms = load.fitting(f"step {step + 1}", parts, lighten, meter.note)
            torch.nn.utils.clip_grad_norm_(network.parameters(), spec.training.clip or math.inf)
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
            meter.step(step + 1, terms)
            if check and step + 1 in looks:
                meter.checked(step + 1, check(result))
                network.train()
    meter.end()
    return result.eval(), load


def _network(spec: TaskSpec, recipe: Recipe) -> SegmentationNetwork:
    if recipe.start:
        return copy.deepcopy(recipe.start)
    return build_network(len(spec.modalities), spec.classes, spec.network)


def optimiser_of(
    spec: TaskSpec, network: SegmentationNetwork
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """As task.yaml says; sgd is nnU-Net's (10.1038/s41592-020-01008-z): Nesterov 0.99, rate falling as (1 - s)^0.9."""
    rate, steps = spec.training.learning_rate, spec.training.steps
    if spec.training.optimiser == "sgd":
        sgd = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.99, nesterov=True, weight_decay=3e-5)
        return sgd, torch.optim.lr_scheduler.PolynomialLR(sgd, total_iters=steps, power=0.9)
    adamw = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    warm = max(1, steps // 20)
    return adamw, torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
    )


def _looks(steps: int, checks: int) -> set[int]:
    """After which steps the validation cases are scored: evenly over the run, not at its end."""
    return {round(steps * number / (checks + 1)) for number in range(1, checks + 1)} - {0, steps}


def _gradients(
    model: torch.nn.Module,
    criterion: MutualLearningLoss,
    sources: Sequence[tuple[PatchSource, float]],
    step: int,
    load: Load,
) -> dict[str, float]:
    """Gradients of the mean loss over the parts of a step's batch; the loss terms as numbers (of this process' parts).

    What an earlier attempt at the step left is cleared first.

    Args:
        sources: a batch of each, and what its loss weighs: the labelled cases first. Of the others only the weighted
            total is told, as "unlabelled".

    Raises:
        TrainingError: the loss is no number.
    """
    model.zero_grad(set_to_none=True)
    rank, world = ranks()
    device = next(model.parameters()).device
    spec = sources[0][0].spec
    slots = [list(range(part, spec.training.batch, load.parts)) for part in range(load.parts)]
    mine = [(source, weight, part) for source, weight in sources for part in slots[rank::world]]
    # early fusion learns from a part of the modalities alone; the ensemble runs one only where a term asks for it
    draws = spec.network.kind != "maml" or criterion.asks_for_subsets
    sums: dict[str, float] = {}
    for place, (source, weight, part) in enumerate(mine):
        batch = _to(source.batch(step, part, load.patch), device)
        amp = device.type == "cuda" and spec.training.amp
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            outputs = model(batch.images, batch.presence, batch.parts if draws else None)
        terms = criterion(outputs, batch.label)
        told = terms if source is sources[0][0] else {"unlabelled": weight * terms["total"]}
        for name, value in told.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / (len(mine) / len(sources))
        if not math.isfinite(sum(sums.values())):
            raise TrainingError(
                f"step {step + 1}: expected a finite loss, got {terms['total'].item()}; "
                "lower training.learning_rate in task.yaml"
            )
        share = weight * terms["total"] * (world / load.parts)  # DDP takes the mean over processes
        if world > 1 and place + 1 < len(mine):
            with model.no_sync():  # type: ignore[operator]  # of DistributedDataParallel
                share.backward()
        else:
            share.backward()
    return sums


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.images.to(device), batch.label.to(device), batch.presence.to(device), batch.parts.to(device))
