"""The train task: what clients ask for and are shown; `versions/retrain.py` does it."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from pydantic import ValidationError

from maml_app.cases.source import CaseSource, teaching
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.trial import refined
from maml_app.errors import MamlError, TrainingError
from maml_app.machine import MEMORY_SHARE, settle_threads, step_back
from maml_app.training.load import memory_told
from maml_app.training.recipe import Recipe
from maml_app.versions.predict import pick_device
from maml_app.versions.registry import ModelRegistry
from maml_app.versions.retrain import Retraining
from maml_app.versions.runs import Run, last_run


class TrainEnsemble(TrainTask):
    """Trains on every case with a final label; the result is served if it is not worse than what is served now."""

    def __init__(
        self,
        source: CaseSource,
        spec: TaskSpec,
        registry: ModelRegistry,
        prepared_gb: float = 20.0,
        memory_gb: float = 0.0,
    ) -> None:
        super().__init__(f"Train the ensemble for {spec.title} on all final labels")
        self.source = source
        self.spec = spec
        self.registry = registry
        self.prepared_gb = prepared_gb
        self.memory_gb = memory_gb
        self._run: Run | None = None

    def config(self) -> dict[str, Any]:
        return {"steps": self.spec.training.steps, "seed": 0, "warm_start": True, "multi_gpu": True}

    def stats(self) -> dict[str, Any]:
        """What clients show of the last training; numbers only, 0 where nothing is known yet."""
        version = self.registry.served()
        report = self.registry.report(version) if version else {}
        validation = report.get("validation") or report.get("cross_validation") or {}
        last = last_run(self.registry.runs)
        if not version and not last:
            return {}
        found = {
            "last_run": last,
            "epoch": report.get("steps", 0),
            "total_epochs": report.get("steps", 0),
            "total_time": str(report.get("seconds", 0)),
            "train_time": report.get("seconds", 0),
            "best_metric": validation.get("full") or validation.get("mean") or 0.0,
        }
        if last.get("state") == "running":  # clients take an empty total_time for a training that is going on
            at = last.get("progress") or {}
            found |= {"epoch": at.get("done", 0), "total_epochs": at.get("total", 0), "total_time": ""}
        return found | ({"version": version, "validation": validation} if version else {})

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        # people wait for inference: it has a core of its own, and goes first on the others
        settle_threads(spare=1)
        step_back(self.memory_gb)
        try:
            self.registry.belongs_to(self.source, claim=True)
            self._run = Run(self.registry.runs)
            warm = str(request.get("warm_start", True)).lower() != "false"
            spec, recipe = self._overridden(request), self._recipe(request)
            finish = partial(refined, spec)
            retrain = Retraining(spec, self.registry, recipe, self._run, self.say, warm, finish)
            with memory_told():
                result = retrain(teaching(self.source.cases(), self.spec))
            self._run.end("done")
            return result
        except MamlError as error:
            reason = str(error)
        except OSError as error:
            full = "the disk is full; make room" if error.errno == errno.ENOSPC else "a file could not be used"
            reason = f"{full} ({error})"
        served = self.registry.served()
        reason += f"; {served} stays served" if served else ""
        # in the training process: one line in the task's log, and a failed exit
        self.say(f"Training failed: {reason}")
        if self._run:
            with suppress(OSError):
                self._run.end("failed", reason)
        sys.exit(1)

    def say(self, text: str) -> None:
        """A line in the task's log, which GET /train/ shows, and in the run's, which is kept."""
        print(text, flush=True)
        if self._run:
            self._run.line(text)

    def _recipe(self, request: dict[str, Any]) -> Recipe:
        device = pick_device(str(request.get("device") or ""))
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE, device)
        devices = tuple(_devices(request, device)) or (device,)
        return Recipe(seed=_whole(request, "seed", 0), devices=devices, prepared_gb=self.prepared_gb)

    def _overridden(self, request: dict[str, Any]) -> TaskSpec:
        changes = {"steps": _whole(request, "steps", self.spec.training.steps)}
        try:
            training = type(self.spec.training).model_validate({**self.spec.training.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            raise TrainingError(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
        return self.spec.model_copy(update={"training": training})


def _devices(request: dict[str, Any], device: torch.device) -> list[torch.device]:
    """The devices of a training in several processes: MONAI Label's `multi_gpu` and `gpus`, or `processes` on the CPU.

    Raises:
        TrainingError: they are no numbers, or GPUs that are not there.
    """
    processes = _whole(request, "processes", 1)
    if processes > 1 and device.type == "cpu":
        return [device] * processes
    if device.type != "cuda" or str(request.get("multi_gpu", True)).lower() == "false":
        return []
    count, asked = torch.cuda.device_count(), str(request.get("gpus") or "all")
    try:
        chosen = list(range(count)) if asked == "all" else [int(device) for device in asked.split(",")]
    except ValueError:
        raise TrainingError(f"gpus: expected 'all' or numbers with commas between, got {asked!r}") from None
    if not set(chosen) <= set(range(count)):
        raise TrainingError(f"gpus: expected some of {list(range(count))}, got {asked!r}")
    return [torch.device("cuda", device) for device in chosen] if len(chosen) > 1 else []


def _whole(request: dict[str, Any], key: str, default: int) -> int:
    """A whole number; clients may send it as text."""
    value = request.get(key, default)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise TrainingError(f"{key}: expected a whole number, got {value!r}") from None
