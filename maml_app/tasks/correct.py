"""The infer task of clicks: what a viewer's positive and negative points make of the model's answer."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from maml_app.cases.case import Case
from maml_app.correcting.correct import Click, Corrected, Corrector, Marked, empty
from maml_app.errors import CaseError, ModelError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Grid, Volume
from maml_app.machine import Turns
from maml_app.tasks.answers import answering
from maml_app.tasks.infer import SegmentCase, write_answer
from maml_app.versions.predict import Model, segment

CLICKS = "_clicks"  # after the task's name: the model of the clicks
logger = logging.getLogger(__name__)


class CorrectCase(InferTask):
    """Mends one label by clicks, starting from the model's own answer, or from nothing before there is a model.

    Clients send all clicks each time, as voxel indices of the image that is asked for, and take a binary mask.
    """

    def __init__(self, segmenting: SegmentCase) -> None:
        spec = segmenting.spec
        super().__init__(
            type=InferType.DEEPGROW,
            labels={label.name: label.value for label in spec.labels},
            dimension=3,
            description=f"{spec.title}: clicks mend one label, seen in all modalities of a case",
            config={"grid": ["reference", *spec.modality_names]},
        )
        self.segmenting = segmenting
        self.corrector = Corrector(spec)

    def is_valid(self) -> bool:
        return True  # it needs no model

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        with answering():
            return self._answer(request)

    def _answer(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        began = time.monotonic()
        case, asked = self.segmenting.asked(request)
        spec = self.segmenting.spec
        name = str(request.get("label") or spec.labels[0].name)
        value = spec.value_of(name)
        if value is None:
            raise CaseError(f"expected a label of {[label.name for label in spec.labels]}, got {name!r}")
        grid = read_grid(case.grids[asked])
        clicks = [
            *_clicks(request.get("background") or (), grid, inside=False),
            *_clicks(request.get("foreground") or (), grid, inside=True),
        ]
        if not clicks:
            raise CaseError("expected clicks: foreground, background, or both, as voxel indices of the image")
        with Turns(self.segmenting.registry.turns).inference():
            model = self._model(str(request.get("device") or ""))
            start = empty(case, asked)
            if model:
                start = Volume(segment(model, case, asked, spec).label, grid.affine)
            result = self.corrector.correct(case, start, Marked(value, clicks, len(clicks)), model)
        mask = Volume((result.label.voxels == value).astype(np.uint8), grid.affine)
        file = write_answer(request, case, mask)
        seconds = round(time.monotonic() - began, 2)
        logger.info("case %s on %s: %s clicks on %s, %s s", case.id, asked, len(clicks), name, seconds)
        params = {
            "label_names": {name: 1},
            "latencies": {"total": seconds},
            "case": case.id,
            "grid": asked,
            "model_version": model.version if model else "",
            "gained_ml": result.gained_ml,
            "lost_ml": result.lost_ml,
        }
        return str(file), params

    def mend(self, case: Case, label: Volume, marked: Marked) -> Corrected:
        """A viewer's own label map after its newest click."""
        with answering(), Turns(self.segmenting.registry.turns).inference():
            return self.corrector.correct(case, label, marked, self._model(""))

    def _model(self, device: str) -> Model | None:
        try:
            return self.segmenting.model(device)
        except ModelError:
            return None  # there is none yet: the images alone


def _clicks(places: Any, grid: Grid, inside: bool) -> list[Click]:
    found = []
    for place in places:
        x, y, z = (grid.affine @ (*place, 1.0))[:3]
        found.append(Click((float(x), float(y), float(z)), inside))
    return found
