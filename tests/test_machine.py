"""How training gives way to inference and to the machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maml_app import machine
from maml_app.machine import Turns, is_running
from tests.harness.server import ROOT


def test_training_waits_while_any_inference_runs(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "models" / ".inference")
    assert turns.wait() == 0  # nobody ever asked
    events: list[str] = []

    def step() -> None:
        turns.wait()
        events.append("step")

    with turns.inference():
        with turns.inference():  # two at a time do not hinder each other
            pass
        trainer = threading.Thread(target=step)
        trainer.start()
        trainer.join(0.3)
        assert trainer.is_alive()
        events.append("answer")
    trainer.join(10)
    assert events == ["answer", "step"]


def test_training_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LONGEST_WAIT_S", 0.1)
    turns = Turns(tmp_path / ".inference")
    with turns.inference():
        assert 0.1 <= turns.wait() < 5


def test_inference_goes_on_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with Turns(tmp_path / "file" / ".inference").inference():
        pass


CAPPED = """
import os
import pathlib
import sys
from maml_app.lean import spare_imports
spare_imports()
import torch
from maml_app.cases.spec import parse_task
from maml_app.phantom.scene import write_cases
from maml_app.training.dataset import PatchSource, build_samples, load_sample
from maml_app.training.optimise import optimise
from maml_app.training.recipe import Recipe
from maml_app.machine import proc_bytes, step_back
from maml_app.stores.folder import FolderStore
from tests.conftest import TOY

torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
text = TOY.replace("patch: [16, 16, 16]", "patch: [32, 32, 32]")
spec = parse_task(text.replace("steps: 3", "steps: 1"), "toy.yaml")
write_cases(folder / "studies", spec, 2, seed=0, size=24)
samples = build_samples(FolderStore(folder / "studies", spec).cases(), spec, folder / "prepared")
prepared = [load_sample(*item) for item in samples.items()]
PatchSource(prepared, spec, 0).batch(0)
for more_gb in (0.15, 20):  # each in a process of its own, in which nothing was refused before
    if os.fork():
        os.wait()
        continue
    step_back(proc_bytes("self/status", "VmData") / 1e9 + more_gb)
    _, load = optimise(spec, prepared, Recipe(devices=(torch.device("cpu"),), report=print))
    print(load.patch, pathlib.Path("/proc/self/oom_score_adj").read_text(), flush=True)
    os._exit(0)
"""


def test_a_training_that_may_not_take_more_memory_goes_on_with_less(tmp_path: Path) -> None:
    """The system's own refusal, not a mock: a limit on the process' memory."""
    program = [sys.executable, "-c", CAPPED, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    capped, _, free = done.stdout.partition(" 500\n")
    assert "out of memory: going on with batches in 2 parts" in capped, done.stderr
    assert "(32, 32, 32)" not in capped
    assert "out of memory" not in free
    assert "(32, 32, 32) 500" in free, done.stderr


def test_a_limit_that_nobody_named_leaves_memory_to_others() -> None:
    program = "from maml_app.machine import *; from maml_app.machine import proc_bytes as k\n"
    program += "free = k('meminfo', 'MemAvailable'); print(step_back() * 1e9 < free, os.nice(0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["True", "10"]


def test_a_process_runs_or_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process.pid)
    process.communicate()
    assert not is_running(process.pid)


SETTLED = """
import os, torch
from maml_app.machine import cores, settle_threads

def settled(environment=(), one_core=False, **given):
    if os.fork():
        return os.wait()
    os.environ.update(environment)
    if one_core:
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    count = settle_threads(**given)
    between = torch.get_num_interop_threads()
    print(count == torch.get_num_threads(), count, cores(), between, os.environ["OMP_WAIT_POLICY"], flush=True)
    os._exit(0)

for name in [name for name in os.environ if name.startswith("OMP_")]:
    del os.environ[name]
settled()
settled(one_core=True)
settled(spare=1)
settled(processes=cores())
settled(most=1)
settled({"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}, spare=1)
"""


def test_threads_are_settled_once_from_what_this_process_may_use() -> None:
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, cwd=ROOT, check=True)
    plain, on_one, spared, shared, least, named = (line.split() for line in done.stdout.splitlines())
    same, count, there, between, waits = plain
    assert (same, count, between, waits) == ("True", there, "1", "PASSIVE")
    assert on_one[1:3] == ["1", "1"]
    assert spared[1] == str(max(1, int(there) - 1))
    assert shared[1] == "1"
    assert least[1] == "1"
    assert named[1::3] == ["3", "ACTIVE"]  # as the user says
