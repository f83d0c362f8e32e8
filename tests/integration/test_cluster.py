"""Scoring on a real Ray, started here."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.cluster import Cluster, score_on_cluster
from maml_app.choosing.look import look_at
from maml_app.choosing.store import ScoreStore
from maml_app.choosing.worth import COLD
from maml_app.errors import MamlError
from maml_app.phantom.scene import write_cases
from maml_app.stores.folder import FolderStore
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.predict import load_served
from maml_app.versions.registry import ModelRegistry
from tests.conftest import TOY

COUNT = int(os.environ.get("MAML_CLUSTER_CASES", "120"))  # 1000 to be sure


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, spec: TaskSpec) -> Path:
    """A thousand tiny cases: eight phantoms, each under many ids."""
    folder = tmp_path_factory.mktemp("cluster")
    write_cases(folder / "few", spec, count=8, seed=0, size=16)
    for number in range(COUNT):
        target = folder / "studies" / f"case_{number:04d}"
        target.mkdir(parents=True)
        for file in (folder / "few" / f"phantom_{number % 8:03d}").iterdir():
            if file.name != "label.nii.gz":
                os.link(file, target / file.name)
    (folder / "studies" / "task.yaml").write_text(TOY)
    registry = ModelRegistry(folder / "models" / spec.name)
    trained = train(spec, FolderStore(folder / "few", spec).cases(), Recipe(devices=(torch.device("cpu"),)))
    registry.serve(registry.store(trained.network, trained.checkpoint, {**trained.checkpoint.notes}))
    return folder


def workers() -> list[psutil.Process]:
    """Those that score right now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::_score_part"]:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_all_cases_are_scored_once_each_though_a_worker_is_killed(many: Path, spec: TaskSpec) -> None:
    registry = ModelRegistry(many / "models" / spec.name)
    cases = FolderStore(many / "studies", spec).cases()
    told: list[str] = []
    killed: list[int] = []
    for case_id, problem in score_on_cluster(cases, "v0001", spec, registry, Cluster(workers=2)):
        assert problem == ""
        told.append(case_id)
        if len(told) >= COUNT // 3 and not killed and (running := workers()):
            os.kill(running[0].pid, signal.SIGKILL)
            killed.append(running[0].pid)
    assert killed
    assert sorted(told) == sorted(case.id for case in cases)  # each once, none lost
    store = ScoreStore(registry.scores)
    assert len(store.read("v0001")) == COUNT
    assert store.waiting(cases, "v0001") == []
    files = [path.name for path in (registry.scores / "v0001").glob("[!.]*")]
    assert len(files) == 2 * COUNT  # a score and a picture each, nothing half written
    # the same as is scored here
    model = load_served(registry, spec, torch.device("cpu"))
    here, _ = look_at(cases[5], model, spec)
    there = store.read("v0001")[cases[5].id]
    assert there.entropy == pytest.approx(here.entropy, abs=1e-5)
    assert there.foreground_ml == here.foreground_ml
    # nothing is left to do, so Ray is not even started
    assert list(score_on_cluster(cases, "v0001", spec, registry, Cluster("no address at all"))) == []


def test_the_queue_is_scored_on_ray_and_what_is_wrong_is_told(many: Path, spec: TaskSpec) -> None:
    some = many / "some"
    for number in range(6):
        target = some / f"case_{number:04d}"
        target.mkdir(parents=True)
        for file in (many / "studies" / target.name).iterdir():
            os.link(file, target / file.name)
    for image in list((some / "case_0002").iterdir()):
        image.unlink()
        image.write_bytes(b"no image")
    (some / "task.yaml").write_text(TOY)
    command = ["queue", "--studies", str(some), "--models", str(many / "cold"), "--ray", "local", "--workers", "1"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "scoring by what the images look like" in done.output
    assert "6/6" in done.output
    assert re.search(r"case_0002: .*ct.nii.gz", done.output, re.DOTALL)
    assert len(ScoreStore(ModelRegistry(many / "cold" / spec.name).scores).read(COLD)) == 5


def test_a_cluster_that_is_not_there_is_told(many: Path, spec: TaskSpec) -> None:
    cases = FolderStore(many / "studies", spec).cases()
    with pytest.raises(MamlError, match=r"127.0.0.1:1: expected the address of a Ray cluster, or 'local', got"):
        list(score_on_cluster(cases, "v0002", spec, ModelRegistry(many / "none"), Cluster("127.0.0.1:1")))
