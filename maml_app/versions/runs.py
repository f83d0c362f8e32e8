"""What is kept of each training run, for people: its whole log, the curves, and how it ended.

<folder>/20240102-101500-123456-4711/train.log      every line
                              progress.jsonl  losses by step, and validation scores
                              curves.png      loss terms and validation Dice over steps
                              events.out.…    the same for TensorBoard
                              state.json      running, done or failed, with the reason
                              now.json        how far it is
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from maml_app.disk import write_atomically, write_text
from maml_app.errors import TrainingError
from maml_app.evaluation.scores import SubsetScore
from maml_app.machine import is_running
from maml_app.training.progress import Progress

KEPT = 50  # runs; older ones go


class Run:
    """One training run's folder. Used in a `with` block: an error that leaves it is noted as the reason."""

    def __init__(self, root: Path) -> None:
        self._points: list[tuple[int, Mapping[str, float]]] = []
        self._scores: list[tuple[int, dict[str, float]]] = []
        self.folder = root / f"{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(run for run in root.iterdir() if run.is_dir())[:-KEPT]:
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
            self.end("running")
        except OSError as error:
            raise TrainingError(f"{root}: expected a folder that can be written to ({error})") from None

    def line(self, text: str) -> None:
        """Keep a line of the log."""
        self._append("train.log", f"{time.strftime('%H:%M:%S')} {text}\n")

    def progress(self, progress: Progress) -> None:
        """Keep the losses of a step, or the scores after it, and how far the run is."""
        if not progress.note:
            done = {"stage": progress.stage, "done": progress.done, "total": progress.total}
            with suppress(OSError):
                write_text(self.folder / "now.json", json.dumps({**done, "seconds_left": progress.seconds_left}))
        if progress.dice:
            self.scores(progress.done, progress.dice)
        if progress.losses and progress.stage == "train":
            self._points.append((progress.done, progress.losses))
            self._append("progress.jsonl", json.dumps({"step": progress.done, **progress.losses}) + "\n")

    def scores(self, step: int, subsets: Mapping[str, SubsetScore]) -> None:
        """Keep the validation cases' scores after a step, by subset."""
        self._scores.append((step, {name: row.mean for name, row in subsets.items() if row.mean is not None}))
        self._append(
            "progress.jsonl",
            json.dumps({"step": step, "dice": {name: row.as_dict() for name, row in subsets.items()}}) + "\n",
        )

    def end(self, state: str, reason: str = "") -> None:
        """Note how the run stands: running, done or failed; in the end the curves are drawn."""
        content = {"state": state, "reason": reason, "process": os.getpid(), "time": time.strftime("%FT%T%z")}
        write_text(self.folder / "state.json", json.dumps(content))
        if state != "running":
            with suppress(OSError):  # a full disk: the state says more than the picture
                self._draw()

    def _draw(self) -> None:
        """Write the curves, as a picture and for TensorBoard."""
        if not self._points:
            return
        from matplotlib.figure import Figure
        from torch.utils.tensorboard import SummaryWriter

        figure = Figure(figsize=(8, 8 if self._scores else 4.5))
        axes, *below = figure.subplots(2 if self._scores else 1, 1, sharex=True, squeeze=False)[:, 0]
        _plot(axes, self._points)
        axes.set(xlabel="step", ylabel="weighted loss", title=self.folder.name, yscale="log")
        if self._scores:
            _plot(below[0], self._scores)
            below[0].set(xlabel="step", ylabel="validation Dice", ylim=(0, 1))
            below[0].legend(fontsize="small")
        axes.legend()
        write_atomically(self.folder / "curves.png", lambda part: figure.savefig(part, format="png", dpi=100))
        with SummaryWriter(str(self.folder)) as writer:
            for step, losses in self._points:
                for name, value in losses.items():
                    writer.add_scalar(f"loss/{name}", value, step)
            for step, scores in self._scores:
                for name, value in scores.items():
                    writer.add_scalar(f"dice/{name}", value, step)

    def _append(self, name: str, text: str) -> None:
        # a full disk must not stop a training that needs no more of it
        with suppress(OSError), (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(text)


def _plot(axes: Any, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    for name in points[-1][1]:
        steps = [step for step, values in points if name in values]
        axes.plot(
            steps,
            [values[name] for _, values in points if name in values],
            label=name,
            marker="o" if len(points) < 20 else None,
            linewidth=2 if name == "total" else 1,
        )


def last_run(root: Path) -> dict[str, Any]:
    """How the newest run stands; one that runs no more but never ended was killed. Empty if there was none."""
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for folder in reversed(folders):
        try:
            state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if state["state"] == "running" and not is_running(int(state["process"])):
            state["state"] = "killed"
            state["reason"] = "stopped by somebody, or killed by the system for want of memory; train again"
        try:
            progress = json.loads((folder / "now.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            progress = {}
        return {"log": str(folder / "train.log"), "progress": progress, **state}
    return {}
