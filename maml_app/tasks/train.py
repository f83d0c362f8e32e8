"""The train task: all final labels, warm start, validation by modality subset, and the gate before it is served."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from pydantic import ValidationError

from maml_app.cases.case import Case
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.errors import MamlError, ModelError, TrainingError
from maml_app.learning.evaluate import evaluate
from maml_app.learning.gate import Verdict, judge
from maml_app.learning.predict import Model, load_model, pick_device
from maml_app.learning.registry import ModelRegistry
from maml_app.learning.split import split
from maml_app.learning.train import Progress, Trained, train
from maml_app.network.ensemble import SegmentationNetwork

logger = logging.getLogger(__name__)


class TrainEnsemble(TrainTask):
    """Trains on every case with a final label; the result is served if it is not worse than what is served now."""

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
            reason = str(error)
        except (torch.OutOfMemoryError, MemoryError) as error:
            reason = f"out of memory; lower training.batch or training.patch in task.yaml ({error})"
        # in the training process: one line in the task's log, and a failed exit
        say(f"Training failed: {reason}")
        sys.exit(1)

    def _train(self, request: dict[str, Any]) -> dict[str, Any]:
        # people wait for inference: it has a core of its own, and goes first on the others
        torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
        os.setpriority(os.PRIO_PROCESS, 0, 10)
        spec = self._overridden(request)
        seed = _whole(request, "seed", 0)
        device = pick_device(str(request.get("device") or ""))
        cases = self.source.cases()
        say(f"{sum(case.label is not None for case in cases)} of {len(cases)} cases have a final label; {device}")
        champion = self._champion(device, [case for case in cases if case.label], spec.training.validation)
        warm = str(request.get("warm_start", True)).lower() != "false"
        start = self._start(champion, warm)
        with self.registry.workspace() as work:
            result = train(spec, cases, seed=seed, device=device, start=start, workspace=work, report=_shown())
        report = {**result.checkpoint.notes, "parent": champion.version if champion else None}
        report["trained"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        verdict = self._verdict(spec, result, champion, cases)
        report["gate"] = verdict.as_dict() if verdict else None
        version = self.registry.store(result.network, result.checkpoint, report)
        if verdict is None or verdict.publish:
            self.registry.serve(version)
            say(f"published {version}")
        else:
            for reason in verdict.reasons[:3]:  # the task's log keeps 20 lines; report.json has them all
                say(f"worse than {verdict.against}: {reason}")
            say(
                f"{version} is kept as a candidate and {verdict.against} stays served: {len(verdict.reasons)} scores "
                f"fell by more than {verdict.tolerance} on the same {verdict.cases} cases; to serve it all the same: "
                f"python -m maml_app models promote {version}"
            )
        return {"version": version, "served": self.registry.served(), "validation": report["validation"]}

    def _verdict(
        self, spec: TaskSpec, result: Trained, champion: Model | None, cases: Sequence[Case]
    ) -> Verdict | None:
        """The gate's decision; None where there is nothing to compare, said why."""
        if result.validation is None:
            say(
                "no validation, so no comparison: none of the labelled patients belongs to the validation fifth yet; "
                "label more cases to see Dice here"
            )
            return None
        for subset, scores in result.validation["subsets"].items():
            by_name = ", ".join(f"{name} {_number(scores[name])}" for name in spec.scored)
            say(f"validation Dice, {subset} ({scores['cases']} cases): {by_name}")
        if champion is None:
            return None
        held_out = [case for case in cases if case.id in result.checkpoint.notes["validated_on"]]
        before = evaluate(champion.network, held_out, spec, champion.checkpoint.patch, champion.device)
        return judge(result.validation, before, champion.version, spec.training.tolerance)

    def _overridden(self, request: dict[str, Any]) -> TaskSpec:
        changes = {"steps": _whole(request, "steps", self.spec.training.steps)}
        try:
            training = type(self.spec.training).model_validate({**self.spec.training.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            raise TrainingError(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
        return self.spec.model_copy(update={"training": training})

    def _champion(self, device: torch.device, labelled: Sequence[Case], fraction: float) -> Model | None:
        """The served model, to go on from and to be compared with; None if there is none that can be used."""
        version = self.registry.served()
        if version is None:
            say("no model yet: there is nothing to compare with")
            return None
        try:
            model = load_model(self.registry.path(version), self.spec, version, device)
        except ModelError as error:
            say(f"the served model cannot be used, there is nothing to compare with: {error}")
            return None
        # as when the first labels were all of validation patients: going on from it would score it on what it knows
        known = sorted({case.id for case in split(labelled, fraction)[1]} & set(model.checkpoint.notes["trained_on"]))
        if known:
            say(f"{version} was trained on validation cases ({', '.join(known)}): not compared with, nor gone on from")
            return None
        return model

    def _start(self, champion: Model | None, warm: bool) -> SegmentationNetwork | None:
        """The network to go on from; None for new weights, said why."""
        if champion is None or not warm:
            say("training starts from new weights")
            return None
        if champion.checkpoint.plan != self.spec.network.model_dump(mode="json"):
            say(f"training starts from new weights: {champion.version} has another network than task.yaml asks for")
            return None
        say(f"training goes on from {champion.version}")
        return champion.network


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
