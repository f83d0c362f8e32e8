"""The train task: all final labels, warm start, validation by modality subset, atomic publish."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from pydantic import ValidationError

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.errors import MamlError, ModelError, TrainingError
from maml_app.learning.predict import load_model, pick_device
from maml_app.learning.registry import ModelRegistry
from maml_app.learning.train import Progress, train
from maml_app.network.ensemble import SegmentationNetwork

logger = logging.getLogger(__name__)


class TrainEnsemble(TrainTask):
    """Trains on every case with a final label and publishes the result as the next version."""

    def __init__(self, source: CaseSource, spec: TaskSpec, registry: ModelRegistry) -> None:
        super().__init__(f"Train the ensemble for {spec.title} on all final labels")
        self.source = source
        self.spec = spec
        self.registry = registry

    def config(self) -> dict[str, Any]:
        return {"steps": self.spec.training.steps, "seed": 0, "warm_start": True}

    def stats(self) -> dict[str, Any]:
        """What clients show of the last training; numbers only, 0 where nothing is known yet."""
        version = self.registry.served()
        report = self.registry.report(version) if version else {}
        validation = report.get("validation") or {}
        if not version:
            return {}
        return {
            "version": version,
            "epoch": report.get("steps", 0),
            "total_time": str(report.get("seconds", 0)),
            "best_metric": validation.get("full") or validation.get("mean") or 0.0,
            "validation": validation,
        }

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        try:
            return self._train(request)
        except MamlError as error:
            # in the training process: one line in the task's log, and a failed exit
            print(f"Training failed: {error}", flush=True)
            sys.exit(1)

    def _train(self, request: dict[str, Any]) -> dict[str, Any]:
        # one core is left to inference, which people wait for
        torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
        spec = self._overridden(request)
        seed = _whole(request, "seed", 0)
        device = pick_device(str(request.get("device") or ""))
        start = self._start(device) if str(request.get("warm_start", True)).lower() != "false" else None
        cases = self.source.cases()
        say(f"{sum(case.label is not None for case in cases)} of {len(cases)} cases have a final label; {device}")
        result = train(spec, cases, seed=seed, device=device, start=start, report=_shown())
        report = {**result.checkpoint.notes, "published": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        if result.validation:
            for subset, scores in result.validation["subsets"].items():
                by_name = ", ".join(f"{name} {_number(scores[name])}" for name in spec.scored)
                say(f"validation Dice, {subset} ({scores['cases']} cases): {by_name}")
        else:
            say(
                "no validation: none of the labelled patients belongs to the validation fifth yet; "
                "label more cases to see Dice here"
            )
        version = self.registry.publish(result.network, result.checkpoint, report)
        say(f"published {version}")
        return {"version": version, "validation": report["validation"]}

    def _overridden(self, request: dict[str, Any]) -> TaskSpec:
        changes = {"steps": _whole(request, "steps", self.spec.training.steps)}
        try:
            training = type(self.spec.training).model_validate({**self.spec.training.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            raise TrainingError(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
        return self.spec.model_copy(update={"training": training})

    def _start(self, device: torch.device) -> SegmentationNetwork | None:
        """The served network if it still fits the task; a new start otherwise, said so."""
        version = self.registry.served()
        if version is None:
            say("no model yet: training starts from new weights")
            return None
        try:
            model = load_model(self.registry.path(version), self.spec, version, device)
        except ModelError as error:
            say(f"training starts from new weights: {error}")
            return None
        if model.checkpoint.plan != self.spec.network.model_dump(mode="json"):
            say(f"training starts from new weights: {version} has another network than task.yaml asks for")
            return None
        say(f"training goes on from {version}")
        return model.network


def say(text: str) -> None:
    """A line in the task's log, which GET /train/ shows."""
    print(text, flush=True)


def _shown() -> Any:
    last: dict[str, Any] = {"stage": "", "time": 0.0}

    def show(progress: Progress) -> None:
        now = time.monotonic()
        # the task's log keeps 20 lines: not one for every case
        if progress.stage != last["stage"] or progress.done == progress.total or now - last["time"] > 5:
            last.update(stage=progress.stage, time=now)
            say(str(progress))

    return show


def _whole(request: dict[str, Any], key: str, default: int) -> int:
    """A whole number; clients may send it as text."""
    value = request.get(key, default)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise TrainingError(f"{key}: expected a whole number, got {value!r}") from None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
