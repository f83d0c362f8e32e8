"""What is kept of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from maml_app.errors import TrainingError
from maml_app.evaluation.scores import SubsetScore
from maml_app.training.progress import Progress
from maml_app.versions.runs import KEPT, Run, last_run
from tests.harness.server import ROOT


def test_a_run_keeps_its_log_its_curves_and_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs")
    assert last_run(tmp_path / "runs")["state"] == "running"
    run.line("first")
    for step in (1, 2, 3):
        run.progress(Progress("train", step, 3, {"fused": 1 / step, "total": 2 / step}))
    row = SubsetScore(2, {"organ": 0.5, "lesion": None}, 0.5, None)
    run.progress(Progress("check", 2, 3, {}, dice={"ct": row}))
    run.line("last")
    run.end("done")
    assert [line[9:] for line in (run.folder / "train.log").read_text().splitlines()] == ["first", "last"]
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (run.folder / "progress.jsonl").read_text().splitlines()]
    assert lines[2] == {"step": 3, "fused": 1 / 3, "total": 2 / 3}
    assert lines[3] == {"step": 2, "dice": {"ct": row.as_dict()}}
    events = EventAccumulator(str(run.folder))
    events.Reload()
    points = events.Scalars("loss/total")
    assert [(point.step, round(point.value, 3)) for point in points] == [(1, 2.0), (2, 1.0), (3, 0.667)]
    assert [(point.step, point.value) for point in events.Scalars("dice/ct")] == [(2, 0.5)]
    assert last_run(tmp_path / "runs")["state"] == "done"
    assert last_run(tmp_path / "runs")["log"] == str(run.folder / "train.log")


def test_a_run_that_was_killed_is_told_as_such(tmp_path: Path) -> None:
    program = "import os, sys, pathlib, maml_app.versions.runs as r; r.Run(pathlib.Path(sys.argv[1])); os._exit(9)"
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
