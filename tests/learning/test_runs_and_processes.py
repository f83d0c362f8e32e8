"""What is kept of a run, and how inference goes before training."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from maml_app.errors import TrainingError
from maml_app.learning import processes
from maml_app.learning.optimise import Progress
from maml_app.learning.processes import Turns, is_running
from maml_app.learning.runs import KEPT, Run, last_run
from scripts.server import ROOT


def test_a_run_keeps_its_log_its_curves_and_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs")
    assert last_run(tmp_path / "runs")["state"] == "running"
    run.line("first")
    for step in (1, 2, 3):
        run.progress(Progress("train", step, 3, {"fused": 1 / step, "total": 2 / step}))
    run.line("last")
    run.end("done")
    assert [line[9:] for line in (run.folder / "train.log").read_text().splitlines()] == ["first", "last"]
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (run.folder / "progress.jsonl").read_text().splitlines()]
    assert lines[2] == {"step": 3, "fused": 1 / 3, "total": 2 / 3}
    events = EventAccumulator(str(run.folder))
    events.Reload()
    points = events.Scalars("loss/total")
    assert [(point.step, round(point.value, 3)) for point in points] == [(1, 2.0), (2, 1.0), (3, 0.667)]
    assert last_run(tmp_path / "runs")["state"] == "done"
    assert last_run(tmp_path / "runs")["log"] == str(run.folder / "train.log")


def test_a_run_that_was_killed_is_told_as_such(tmp_path: Path) -> None:
    program = "import os, sys, pathlib, maml_app.learning.runs as r; r.Run(pathlib.Path(sys.argv[1])); os._exit(9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, cwd=ROOT)
    last = last_run(tmp_path)
    assert last["state"] == "killed"
    assert "want of memory" in last["reason"]
    Run(tmp_path).end("failed", "no labels")
    assert [last_run(tmp_path)[key] for key in ("state", "reason")] == ["failed", "no labels"]
    assert last_run(tmp_path / "none") == {}


def test_only_the_newest_runs_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        (tmp_path / f"20200101-000000-{number:03d}").mkdir()
        (tmp_path / f"20200101-000000-{number:03d}" / "train.log").write_text("x")
    run = Run(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert (len(left), left[0], left[-1]) == (KEPT, "20200101-000000-004", run.folder.name)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrainingError, match="expected a folder that can be written to"):
        Run(tmp_path / "file")


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
    monkeypatch.setattr(processes, "LONGEST_WAIT_S", 0.1)
    turns = Turns(tmp_path / ".inference")
    with turns.inference():
        assert 0.1 <= turns.wait() < 5


def test_inference_goes_on_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with Turns(tmp_path / "file" / ".inference").inference():
        pass


def test_a_process_runs_or_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process.pid)
    process.communicate()
    assert not is_running(process.pid)
