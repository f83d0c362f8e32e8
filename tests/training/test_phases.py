"""Experts alone first, then everything together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.network.ensemble import MamlEnsemble, build_network
from maml_app.stores.folder import FolderStore
from maml_app.training.dataset import build_samples, load_sample
from maml_app.training.optimise import optimise
from maml_app.training.phases import optimiser_of, phases
from maml_app.training.recipe import Recipe


def changed(spec: TaskSpec, **training: Any) -> TaskSpec:
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})


def test_phases_share_the_steps(spec: TaskSpec) -> None:
    assert [(phase.first, phase.last, phase.together) for phase in phases(spec, False)] == [(0, 3, True)]
    first = changed(spec, steps=10, alone=0.4, experts_rate=0.25)
    alone, together = phases(first, False)
    assert (alone.first, alone.last, together.first, together.last) == (0, 4, 4, 10)
    assert (alone.loss.experts, alone.loss.fused, alone.loss.mutual, alone.loss.subset) == (1, 0, 0, 0)
    assert together.loss == spec.training.loss
    assert (alone.experts_rate, together.experts_rate) == (1, 0.25)
    # what goes on from a served model does not send its experts back, nor slow them down
    (only,) = phases(first, True)
    assert (only.first, only.experts_rate) == (0, 1)
    rival = first.model_copy(update={"network": spec.network.model_copy(update={"kind": "early-fusion"})})
    assert len(phases(rival, False)) == 1


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_experts_get_their_part_of_the_rate(spec: TaskSpec, optimiser: str) -> None:
    first = changed(spec, steps=10, alone=0.5, experts_rate=0.25, optimiser=optimiser)
    network = build_network(len(spec.modalities), spec.classes, spec.network)
    assert isinstance(network, MamlEnsemble)
    found, _ = optimiser_of(phases(first, False)[1], first, network)
    experts, others = found.param_groups
    assert experts["lr"] == pytest.approx(0.25 * others["lr"])
    count = sum(len(group["params"]) for group in found.param_groups)
    assert count == len(list(network.parameters()))
    assert len(experts["params"]) == len(list(network.experts.parameters()))


def test_the_head_does_not_move_while_experts_are_alone(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> None:
    built = build_samples([case for case in store.cases() if case.label], spec, tmp_path / "prepared")

    def learned(alone: float) -> MamlEnsemble:
        task = changed(spec, steps=4, alone=alone, ema=False, checks=0)
        samples = [load_sample(*item) for item in built.items()]
        network, _ = optimise(task, samples, Recipe(seed=1, devices=(torch.device("cpu"),)))
        assert isinstance(network, MamlEnsemble)
        return network

    torch.manual_seed(1)
    start = build_network(len(spec.modalities), spec.classes, spec.network)
    assert isinstance(start, MamlEnsemble)
    almost, partly = learned(0.99), learned(0.5)  # 0.99 of four steps are all four
    head, before, after = start.head.state_dict(), almost.head.state_dict(), partly.head.state_dict()
    assert all(torch.equal(head[name], before[name]) for name in head)
    assert not all(torch.equal(head[name], after[name]) for name in head)
    for network in (almost, partly):
        pairs = zip(start.experts.parameters(), network.experts.parameters(), strict=True)
        assert all(not torch.equal(one, two) for one, two in pairs)
