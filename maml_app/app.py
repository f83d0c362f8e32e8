"""MamlApp: where everything is wired, and nothing else happens."""

from __future__ import annotations

import copy
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.async_tasks.utils import processes

from maml_app.cases.case import ORIGINAL
from maml_app.choosing.strategies import DEFAULT, STRATEGIES
from maml_app.correcting.correct import Corrector
from maml_app.correcting.nninteractive import NnInteractive
from maml_app.errors import MamlError, SettingsError
from maml_app.machine import settle_threads
from maml_app.network.compiled import is_installed
from maml_app.server.application import admission, application, identity, put_before
from maml_app.server.device import Device
from maml_app.server.house import House
from maml_app.server.scratch import remove_left_behind, scratch_folder
from maml_app.server.welcome import welcome
from maml_app.settings import Settings
from maml_app.stores.choice import choose_task, is_archive, open_studies
from maml_app.tasks.correct import CLICKS, SCRIBBLES, CorrectByClicks, CorrectByScribbles
from maml_app.tasks.datastore import CaseDatastore
from maml_app.tasks.infer import SegmentCase
from maml_app.tasks.scoring import ScoreCases
from maml_app.tasks.strategy import RankedCase
from maml_app.tasks.train import TrainEnsemble
from maml_app.version import VERSION
from maml_app.versions.registry import ModelRegistry

logger = logging.getLogger(__name__)


class MamlApp(MONAILabelApp):
    """One task on one studies folder.

    What `--conf NAME VALUE` may say is in `settings.py`.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        try:
            self.settings = Settings.read(conf)
            self.spec = choose_task(studies, self.settings.task, Path(app_dir), self.settings)
            self.source = open_studies(studies, self.spec, self.settings)
            self.random = self.settings.random or DEFAULT
            if self.random not in STRATEGIES:
                raise SettingsError(f"--conf random: expected a strategy of {list(STRATEGIES)}, got {self.random!r}")
            if self.settings.engine.startswith("openvino") and not is_installed():
                raise SettingsError(
                    f"--conf engine {self.settings.engine}: expected OpenVINO, got none; pip install maml-app[openvino]"
                )
            self.guest = NnInteractive(self.settings.nninteractive) if self.settings.nninteractive else None
            models = self.settings.models or Path(app_dir) / "model"
            self.registry = ModelRegistry(models / self.spec.name)
            self.registry.belongs_to(self.source)
        except MamlError as error:
            _give_up(error)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"MAML - {self.spec.name}",
            description=self.spec.description or self.spec.title,
            version=VERSION,
            labels=[label.name for label in self.spec.labels],
        )

    def init_datastore(self) -> Datastore:
        return CaseDatastore(self.source, self.spec, self.studies)

    def init_infers(self) -> dict[str, InferTask]:
        segmenting = SegmentCase(self.source, self.spec, self.registry, self.settings.engine, self.settings.seen_gb)
        name, corrector = self.spec.name, Corrector(self.spec)
        return {
            name: segmenting,
            f"{name}{CLICKS}": CorrectByClicks(segmenting, corrector),
            f"{name}{SCRIBBLES}": CorrectByScribbles(segmenting, corrector),
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        trainer = TrainEnsemble(
            self.source, self.spec, self.registry, self.settings.prepared_gb, self.settings.memory_gb
        )
        return {self.spec.name: trainer}

    def init_strategies(self) -> dict[str, Strategy]:
        """Each by its name; OHIF always asks for `random`, which `--conf random NAME` lets be another."""
        arguments = (self.source, self.spec, self.registry)
        strategies: dict[str, Strategy] = {name: RankedCase(name, *arguments) for name in STRATEGIES}
        if self.random != "random":
            said = f"As {self.random}: {STRATEGIES[self.random].words}"
            strategies["random"] = RankedCase(self.random, *arguments, said)
        return strategies

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        self.scores = ScoreCases(self.source, self.spec, self.registry)
        return {"maml": self.scores}

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> Any:
        """As MONAI Label's, which calls this at the start, after a training and after each `next`: if there is need."""
        if not self._server_mode:  # a training process: the server looks at the cases once it has ended
            return {}
        if method is None and (not self._auto_update_scoring or processes("scoring") or not self.scores.is_due()):
            return {}
        return super().async_scoring(method, params)

    def on_init_complete(self) -> None:
        """In the server, not in its training process: every request passes our application from the first one on."""
        super().on_init_complete()
        settle_threads()
        from monailabel.app import app as server

        try:
            who = identity(self.settings)
            admitted = admission(self.settings, who)
            remove_left_behind()
            device = Device(scratch_folder(), self.settings.queue, self.settings.infer_s)
        except MamlError as error:
            _give_up(error)
        archive = self.studies if is_archive(self.studies) else ""
        house = House(self, self.source, self.spec, self.registry, self.settings, who, device, archive, self.guest)
        put_before(server, application(house, admitted))
        welcome(house, admitted)

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """As MONAI Label's, but the task gets the image id, not one path: it looks up the whole case itself."""
        task = self._infers.get(str(request.get("model")))
        if task is None:
            detail = f"expected a model of {sorted(self._infers)}, got {request.get('model')!r}"
            raise HTTPException(status_code=404, detail=detail)
        file, params = task(copy.deepcopy(request))
        answer = {"label": file, "tag": ORIGINAL, "file": file, "params": params}
        if request.get("save_label"):
            store = datastore or self.datastore()
            told = {"author": request.get("author") or "", "proposal": {"model": params["model_version"]}}
            answer["label"] = store.save_label(request["image"], file, ORIGINAL, told)
        return answer


def _give_up(error: MamlError) -> NoReturn:
    """End a server that cannot start, with one message."""
    print(f"\n{error}\n", file=sys.stderr, flush=True)
    # the server would wrap any exception, SystemExit too, into a traceback; nothing runs yet to clean up
    os._exit(2)
