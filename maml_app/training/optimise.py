"""The optimisation: steps on patches, in parts that fit into memory, on one process or on several alike.

A batch is cut into parts whose losses are averaged. With several processes (torch.distributed, DDP) each takes its
parts of the same batch, so that their result is that of one process which takes the parts one after another.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.evaluation.scores import SubsetScore
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.network.losses import MutualLearningLoss
from maml_app.training.dataset import Batch, PatchSource


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch says on a GPU, or on the CPU, that there is no memory left."""
    said = ("DefaultCPUAllocator", "could not create a memory", "could not create a primitive")
    plain = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return plain or (isinstance(error, RuntimeError) and any(words in str(error) for words in said))


@dataclass(frozen=True)
class Progress:
    """Where training stands: `stage` is prepare, train, validate …; `losses` the weighted terms, averaged lately.

    `dice`: the validation cases' scores in the course of a run, by subset.
    """

    stage: str
    done: int
    total: int
    losses: dict[str, float]
    seconds_left: float | None = None
    epoch: int | None = None
    note: str = ""
    dice: Mapping[str, SubsetScore] | None = None

    def __str__(self) -> str:
        if self.note:
            return self.note
        if self.dice:
            names = list(next(iter(self.dice.values())).dice)
            scores = [f"{subset} {_numbers(row.dice.values())}" for subset, row in self.dice.items()]
            return f"validation Dice after {self.done} steps ({', '.join(names)}): {'; '.join(scores)}"
        left = "" if self.seconds_left is None else f", {self.seconds_left / 60:.1f} min left"
        terms = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items() if name != "total")
        loss = f": loss {self.losses['total']:.3f} ({terms})" if self.losses else ""
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        return f"{self.stage} {self.done}/{self.total}{epoch}{loss}{left}"


def _numbers(values: Iterable[float | None]) -> str:
    return " ".join("–" if value is None else f"{value:.3f}" for value in values)


Report = Callable[[Progress], None]


def ranks() -> tuple[int, int]:
    """This process' rank and how many there are; (0, 1) without torch.distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@dataclass
class Load:
    """How much is computed at a time: in how many parts a batch is taken, and the patch size."""

    parts: int
    patch: tuple[int, int, int]

    def lighter(self, spec: TaskSpec) -> bool:
        """More parts, then smaller patches; False if there is nothing left to give."""
        if self.parts < spec.training.batch:
            self.parts = min(spec.training.batch, self.parts * 2)
            return True
        divisor = spec.network.divisor
        # the longest side that can still be halved, to a multiple of the divisor and at least two of them
        for axis in sorted(range(3), key=lambda axis: -self.patch[axis]):
            side = max(2 * divisor[axis], self.patch[axis] // 2 // divisor[axis] * divisor[axis])
            if side < self.patch[axis]:
                patch = list(self.patch)
                patch[axis] = side
                self.patch = (patch[0], patch[1], patch[2])
                return True
        return False

    def __str__(self) -> str:
        return f"batches in {self.parts} parts, patches of {' x '.join(map(str, self.patch))}"


def optimise(
    spec: TaskSpec,
    source: PatchSource,
    seed: int,
    device: torch.device,
    start: SegmentationNetwork | None = None,
    report: Report = lambda progress: None,
    wait: Callable[[], float] = lambda: 0.0,
    parts: int = 1,
    check: Callable[[SegmentationNetwork], Mapping[str, SubsetScore]] | None = None,
) -> tuple[SegmentationNetwork, Load]:
    """Steps with gradient clipping, bfloat16 on CUDA; returns averaged weights (EMA) where the task asks for them.

    Args:
        wait: called before each step, to let others go first.
        parts: in how many parts a batch is taken from the start.
        check: scores a network on the validation cases; called `training.checks` times in the course of the run.

    Raises:
        TrainingError: out of memory even with the smallest patches, or a loss that is no number any more.
    """
    _, world = ranks()
    steps = spec.training.steps
    if spec.training.batch < world:
        raise TrainingError(
            f"expected training.batch of at least {world} for {world} processes, got {spec.training.batch}"
        )
    torch.manual_seed(seed)
    network = copy.deepcopy(start) if start else build_network(len(spec.modalities), spec.classes, spec.network)
    network = network.to(device).train()
    model: torch.nn.Module = network
    if world > 1:
        # which experts a rank runs depends on the modalities that its cases have
        model = DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
        )
    criterion = MutualLearningLoss(spec.training.loss, list(spec.scored.values()))
    optimiser, schedule = _optimiser(spec, network)
    # an average over about the last tenth of the run
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(2.0, steps / 10)))  # type: ignore[no-untyped-call]
    load = Load(max(parts, world), spec.training.patch)
    recent: dict[str, list[float]] = {}
    began = last = time.monotonic()
    waited = 0.0
    checks = spec.training.checks
    looks = {round(steps * number / (checks + 1)) for number in range(1, checks + 1)} - {0, steps} if check else set()
    for step in range(steps):
        waited += wait()
        while True:
            optimiser.zero_grad(set_to_none=True)
            try:
                terms = _gradients(model, criterion, source, step, load, device)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if world > 1 or not load.lighter(spec):
                    raise TrainingError(
                        f"step {step + 1}: out of memory with {load}; lower training.batch, training.patch or "
                        f"network.channels in task.yaml, or free memory on {device} ({error})"
                    ) from None
            optimiser.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
            report(Progress("train", step, steps, {}, note=f"out of memory: going on with {load}"))
        torch.nn.utils.clip_grad_norm_(network.parameters(), spec.training.clip or math.inf)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        for name, value in terms.items():
            recent.setdefault(name, []).append(value)
        now = time.monotonic()
        if now - last > 5 or step + 1 == steps or step == 0:
            left = (now - began) / (step + 1) * (steps - step - 1)
            means = {name: sum(values) / len(values) for name, values in recent.items()}
            epoch = int(step / source.steps_an_epoch) + 1
            report(Progress("train", step + 1, steps, means, left, epoch))
            recent, last = {}, now
        if check and step + 1 in looks:
            report(Progress("check", step + 1, steps, {}, dice=check(_result(average, network, spec))))
            network.train()
    if waited > 1:
        report(Progress("train", steps, steps, {}, note=f"stood aside for {waited:.0f} s of inference"))
    return _result(average, network, spec).eval(), load


def _result(average: AveragedModel, network: SegmentationNetwork, spec: TaskSpec) -> SegmentationNetwork:
    result = average.module if spec.training.ema else network
    assert isinstance(result, type(network))
    return result


def _optimiser(
    spec: TaskSpec, network: torch.nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """As task.yaml says; sgd is nnU-Net's (10.1038/s41592-020-01008-z): Nesterov 0.99, rate falling as (1 - s)^0.9."""
    training, steps = spec.training, spec.training.steps
    if training.optimiser == "sgd":
        sgd = torch.optim.SGD(
            network.parameters(), lr=training.learning_rate, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        return sgd, torch.optim.lr_scheduler.PolynomialLR(sgd, total_iters=steps, power=0.9)
    adamw = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=1e-2)
    warm = max(1, steps // 20)
    return adamw, torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
    )


def _gradients(
    model: torch.nn.Module,
    criterion: MutualLearningLoss,
    source: PatchSource,
    step: int,
    load: Load,
    device: torch.device,
) -> dict[str, float]:
    """Gradients of the mean loss over the parts of a step's batch; the loss terms as numbers (of this process' parts).

    Raises:
        TrainingError: the loss is no number.
    """
    rank, world = ranks()
    slots = [list(range(part, source.spec.training.batch, load.parts)) for part in range(load.parts)]
    mine = slots[rank::world]
    sums: dict[str, float] = {}
    for place, part in enumerate(mine):
        batch = _to(source.batch(step, part, load.patch), device)
        amp = device.type == "cuda" and source.spec.training.amp
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            outputs = model(batch.images, batch.presence, batch.subset if source.draws_subsets else None)
        terms = criterion(outputs, batch.label)
        if not torch.isfinite(terms["total"]):
            raise TrainingError(
                f"step {step + 1}: expected a finite loss, got {terms['total'].item()}; "
                "lower training.learning_rate in task.yaml"
            )
        share = terms["total"] * (world / load.parts)  # DDP takes the mean over processes
        if world > 1 and place + 1 < len(mine):
            with model.no_sync():  # type: ignore[operator]  # of DistributedDataParallel
                share.backward()
        else:
            share.backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(mine)
    return sums


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.images.to(device), batch.label.to(device), batch.presence.to(device), batch.subset.to(device))
