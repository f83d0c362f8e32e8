"""The scoring task: looks at every case once a model version, in the background, so that `next` can choose."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.look import score_all
from maml_app.choosing.store import shared_scores
from maml_app.choosing.worth import COLD
from maml_app.errors import MamlError, ModelError
from maml_app.machine import Turns, settle_threads
from maml_app.versions.predict import Model, load_served, pick_device
from maml_app.versions.registry import ModelRegistry


class ScoreCases(ScoringMethod):
    """Scores all cases with the served model; without one, what their images look like."""

    def __init__(self, source: CaseSource, spec: TaskSpec, registry: ModelRegistry) -> None:
        super().__init__("How much there is to learn from each case, for the strategies")
        self.source = source
        self.spec = spec
        self.registry = registry
        self.store = shared_scores(registry.scores)

    def is_due(self) -> bool:
        """Whether any case lacks a score of the served version."""
        try:
            return bool(self.store.waiting(self.source.cases(), self.registry.served() or COLD))
        except MamlError:
            return False

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        settle_threads(most=1)
        os.setpriority(os.PRIO_PROCESS, 0, 15)  # after inference and training
        try:
            self.registry.belongs_to(self.source, claim=True)
            device = pick_device(str(request.get("device") or ""))
            model = self._model(device)
            cases = self.source.cases()
            turns, done = Turns(self.registry.turns), 0
            turns.wait()
            for case_id, problem in score_all(cases, model, self.spec, self.store):
                print(f"{case_id}: {problem or 'scored'}", flush=True)
                done += not problem
                turns.wait()  # before the next one
        except MamlError as error:
            print(f"Scoring failed: {error}", flush=True)
            sys.exit(1)
        return {"version": model.version if model else COLD, "scored": done, "cases": len(cases)}

    def _model(self, device: torch.device) -> Model | None:
        try:
            return load_served(self.registry, self.spec, device)
        except ModelError:
            return None
