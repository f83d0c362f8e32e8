"""The phases of a training: experts alone first, where the task asks for it, then everything together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from maml_app.cases.spec import TaskSpec
from maml_app.network.ensemble import MamlEnsemble, SegmentationNetwork
from maml_app.network.settings import Loss

NOTHING_TOGETHER = {"fused": 0.0, "mutual": 0.0, "subset": 0.0, "consistency": 0.0}


@dataclass(frozen=True)
class Phase:
    """Steps from `first` to before `last`, with a learning rate that rises and falls within them.

    Attributes:
        together: whether the head learns too; else each expert learns from the truth alone.
        experts_rate: of the learning rate, what the experts get.
    """

    first: int
    last: int
    loss: Loss
    together: bool = True
    experts_rate: float = 1.0

    @property
    def steps(self) -> int:
        return self.last - self.first


def phases(spec: TaskSpec, warm: bool) -> list[Phase]:
    """The phases that a task asks for; experts that learned already (`warm`) are not sent back to learn alone."""
    training = spec.training
    alone = 0 if warm or spec.network.kind != "maml" else round(training.alone * training.steps)
    together = Phase(alone, training.steps, training.loss, experts_rate=training.experts_rate if alone else 1.0)
    if not alone:
        return [together]
    loss = training.loss.model_copy(update={**NOTHING_TOGETHER, "experts": 1.0})
    both = [Phase(0, alone, loss, together=False), together]
    return [phase for phase in both if phase.steps]


def optimiser_of(
    phase: Phase, spec: TaskSpec, network: SegmentationNetwork
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """As task.yaml says; sgd is nnU-Net's (10.1038/s41592-020-01008-z): Nesterov 0.99, rate falling as (1 - s)^0.9."""
    training, steps = spec.training, phase.steps
    groups = _groups(phase, training.learning_rate, network)
    if training.optimiser == "sgd":
        sgd = torch.optim.SGD(groups, lr=training.learning_rate, momentum=0.99, nesterov=True, weight_decay=3e-5)
        return sgd, torch.optim.lr_scheduler.PolynomialLR(sgd, total_iters=steps, power=0.9)
    adamw = torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=1e-2)
    warm = max(1, steps // 20)
    return adamw, torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
    )


def _groups(phase: Phase, rate: float, network: SegmentationNetwork) -> list[dict[str, object]]:
    if phase.experts_rate == 1 or not isinstance(network, MamlEnsemble):
        return [{"params": list(network.parameters())}]
    experts = list(network.experts.parameters())
    known = {id(parameter) for parameter in experts}
    others = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return [{"params": experts, "lr": rate * phase.experts_rate}, {"params": others}]
