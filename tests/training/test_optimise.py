"""The optimisation in parts, in less memory, and on several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.machine import Turns
from maml_app.network.ensemble import build_network
from maml_app.stores.folder import FolderStore
from maml_app.training import optimise as module
from maml_app.training.dataset import Sample, build_samples, load_sample
from maml_app.training.distributed import optimise_on
from maml_app.training.load import Load
from maml_app.training.optimise import optimise
from maml_app.training.progress import Progress
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.predict import load_model
from tests.conftest import TOY
from tests.harness.server import ROOT

CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


@pytest.fixture
def built(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> dict[str, Path]:
    return build_samples([case for case in store.cases() if case.label], spec, tmp_path / "prepared")


def samples(built: dict[str, Path]) -> list[Sample]:
    return [load_sample(*item) for item in built.items()]


def recipe(seed: int = 1, **options: Any) -> Recipe:
    return Recipe(seed=seed, **{"devices": (CPU,), **options})


def apart(one: Weights, two: Weights) -> float:
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def test_two_processes_give_what_one_gives_in_two_parts(
    store: FolderStore, built: dict[str, Path], spec: TaskSpec, tmp_path: Path
) -> None:
    """From a warm start, which goes to both and teaches what nobody has labelled."""
    sure, _ = optimise(spec, samples(built), recipe())
    with torch.no_grad():
        for name, weight in sure.named_parameters():
            weight.mul_(10 if name.startswith("head") else 1)
    teaching = spec.model_copy(update={"training": spec.training.model_copy(update={"unlabelled": 1.0})})
    cases = [replace(case, labels=()) if number else case for number, case in enumerate(store.cases())]
    some = build_samples(cases, spec, tmp_path / "prepared")
    told: list[Progress] = []
    (tmp_path / "work").mkdir()
    alone, other = (optimise(teaching, samples(some), recipe(seed, start=sure, parts=2))[0] for seed in (1, 2))
    from_there = recipe(devices=(CPU, CPU), start=sure, wait=Turns(tmp_path / "turns").wait, report=told.append)
    both = optimise_on(teaching, some, from_there, tmp_path / "work")
    assert apart(alone.state_dict(), both.state_dict()) < 1e-4 < apart(alone.state_dict(), other.state_dict()) / 10
    assert [progress.done for progress in told if progress.stage == "train"][-1] == 3
    assert "from step 1 on 4 of 4 cases teach that nobody has labelled" in map(str, told)


def test_clipping_limits_how_far_a_step_goes(built: dict[str, Path], spec: TaskSpec) -> None:
    def moved(clip: float) -> float:
        plan = {"optimiser": "sgd", "learning_rate": 0.01, "clip": clip, "steps": 1, "ema": False}
        one = spec.model_copy(update={"training": spec.training.model_copy(update=plan)})
        start = build_network(len(spec.modalities), spec.classes, spec.network)
        found, _ = optimise(one, samples(built), recipe(start=start))
        return apart(start.state_dict(), found.state_dict())

    # nothing else moves weights by more than decay does
    assert moved(1e-6) < 1e-4 < moved(1.0) < moved(0.0)


def test_torchrun_gives_what_one_process_gives(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> None:
    (store.studies / "task.yaml").write_text(TOY)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = ["-m", "maml_app", "train", "--studies", str(store.studies), "--out", str(tmp_path / "m.safetensors")]
    found = subprocess.run(
        [*torchrun, *command, "--seed", "3", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert found.returncode == 0, found.stdout + found.stderr
    both = load_model(tmp_path / "m.safetensors", spec, "m", CPU)
    alone = train(spec, store.cases(), recipe(seed=3, parts=2))
    assert apart(alone.network.state_dict(), both.network.state_dict()) < 1e-5
    assert both.checkpoint.notes["processes"] == 2
    assert found.stdout.count("model written to") == 1


def test_a_process_that_fails_is_told(built: dict[str, Path], spec: TaskSpec, tmp_path: Path) -> None:
    single = spec.model_copy(update={"training": spec.training.model_copy(update={"batch": 1})})
    with pytest.raises(TrainingError, match=r"training\.batch of at least 2 for 2 processes, got 1"):
        optimise_on(single, built, recipe(devices=(CPU,) * 2), tmp_path)


def limited(limit: int) -> Callable[..., Any]:
    """Gradients that take more memory than there is as soon as a part holds more than `limit` voxels."""
    whole = module._gradients

    def gradients(model: Any, criterion: Any, sources: Any, step: int, load: Load) -> Any:
        in_a_part = -(-sources[0][0].spec.training.batch // load.parts) * load.patch[0] * load.patch[1] * load.patch[2]
        if in_a_part > limit:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return whole(model, criterion, sources, step, load)

    return gradients


@pytest.mark.parametrize(
    ("limit", "parts", "patch"),
    [(16**3 * 2, 1, (16, 16, 16)), (16**3, 2, (16, 16, 16)), (16 * 16 * 8, 2, (8, 16, 16)), (8**3, 2, (8, 8, 8))],
)
def test_out_of_memory_goes_on_with_less(
    built: dict[str, Path], spec: TaskSpec, monkeypatch: pytest.MonkeyPatch, limit: int, parts: int, patch: Any
) -> None:
    monkeypatch.setattr(module, "_gradients", limited(limit))
    told: list[str] = []
    _, load = optimise(spec, samples(built), recipe(report=lambda progress: told.append(str(progress))))
    assert (load.parts, load.patch) == (parts, patch)
    assert any("out of memory: going on with" in line for line in told) == (parts > 1)
    assert "train 3/3" in told[-1]


def test_out_of_memory_with_nothing_left_to_give_is_told(
    built: dict[str, Path], spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_gradients", limited(10))
    with pytest.raises(TrainingError, match=r"out of memory with batches in 2 parts, patches of 4 x 4 x 4"):
        optimise(spec, samples(built), recipe())


def test_what_was_done_in_less_memory_is_noted(
    store: FolderStore, spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_gradients", limited(16 * 16 * 8))
    trained = train(spec, store.cases(), recipe(seed=0))
    assert trained.checkpoint.notes["load"] == {"parts": 2, "patch": [8, 16, 16]}
    assert trained.checkpoint.patch == (16, 16, 16)


def test_others_are_let_before_each_step(built: dict[str, Path], spec: TaskSpec) -> None:
    asked: list[int] = []

    def wait() -> float:
        asked.append(1)
        return 0.7

    told: list[str] = []
    optimise(spec, samples(built), recipe(report=lambda progress: told.append(str(progress)), wait=wait))
    assert len(asked) == 3
    assert told[-1] == "stood aside for 2 s of inference"
