"""Training and publishing, killed at random moments: what is served stays whole, and nothing is left lying about."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from maml_app.cases.spec import TaskSpec
from maml_app.network.checkpoint import Checkpoint, load_checkpoint
from maml_app.network.ensemble import build_network
from maml_app.phantom.scene import write_cases
from maml_app.training.dataset import build_samples
from maml_app.versions.registry import ModelRegistry
from tests.conftest import TOY
from tests.harness.server import ROOT
from tests.harness.waiting import until

KILLS = int(os.environ.get("MAML_KILLS", "4"))  # 40 takes about eight minutes

TRAIN_FOR_EVER = """
import os
import sys
from pathlib import Path
import torch
from maml_app.cases.spec import load_task
from maml_app.versions.registry import ModelRegistry
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.stores.folder import FolderStore
torch.set_num_threads(1)  # before it forks
spec = load_task(Path(sys.argv[1]) / "task.yaml")
store, registry = FolderStore(Path(sys.argv[1]) / "studies", spec), ModelRegistry(Path(sys.argv[1]) / "models")
for _ in sys.stdin:  # each line is another process, which need not read the libraries again
    process = os.fork()
    if process:
        print(process, flush=True)
        os.waitpid(process, 0)
        print("gone", flush=True)
        continue
    while True:
        result = train(spec, store.cases(), Recipe(devices=(torch.device("cpu"),), prepared=registry.prepared))
        registry.publish(result.network, result.checkpoint, {})
"""


def test_killed_at_any_moment_the_served_model_is_whole(tmp_path: Path, spec: TaskSpec) -> None:
    (tmp_path / "task.yaml").write_text(TOY.replace("steps: 3", "steps: 1"))
    write_cases(tmp_path / "studies", spec, count=2, seed=3, size=20)
    registry = ModelRegistry(tmp_path / "models")
    first = Checkpoint("toy", spec.signature(), 3, spec.classes, spec.network, spec.training.patch)
    registry.publish(build_network(3, spec.classes, spec.network), first, {})
    moments = random.Random(7)
    program = [sys.executable, "-c", TRAIN_FOR_EVER, str(tmp_path)]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    trainings = subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert trainings.stdin
    assert trainings.stdout
    for turn in range(KILLS):
        before = registry.history()
        print("train", file=trainings.stdin, flush=True)
        process = int(trainings.stdout.readline())
        if turn == 0:
            until(lambda: len(registry.versions()) > 1, "a version of the first one's own")
        time.sleep(moments.uniform(0.0, 4.0))
        os.kill(process, signal.SIGKILL)
        assert trainings.stdout.readline() == "gone\n"
        # every version listed loads, the served one is among them, and what was served before is still known
        for version in registry.versions():
            load_checkpoint(registry.path(version), "toy", spec.signature(), torch.device("cpu"))
        assert registry.served() in registry.versions()
        assert registry.history()[: len(before)] == before
    trainings.communicate()
    assert len(registry.versions()) > 1
    with registry.workspace():
        pass  # what the next training does first
    build_samples([], spec, registry.prepared)
    assert {path.name for path in registry.root.iterdir()} == {"served", "prepared", *registry.versions()}
    assert not list(registry.prepared.glob(".*"))
    # each training removed what the one before it had left: of the last two folders, at most, something is there
    (own,) = temporary.iterdir()
    assert len(list((own / "training").iterdir())) <= 2
