"""The infer tasks that mend a label: what a client's clicks make of the model's answer, or its scribbles of a label."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from maml_app.cases.case import Case
from maml_app.correcting.correct import Corrected, Corrector, Marked, Prompt, empty
from maml_app.correcting.scribbles import Drawn, read_scribbles
from maml_app.errors import CaseError, LabelError, ModelError
from maml_app.imaging.files import read_grid, read_label
from maml_app.imaging.volume import Grid, Volume
from maml_app.labelling.incoming import Segment
from maml_app.machine import Turns
from maml_app.tasks.answers import answering
from maml_app.tasks.infer import SegmentCase, write_answer
from maml_app.versions.predict import Model, segment

CLICKS, SCRIBBLES = "_clicks", "_scribbles"  # after the task's name: the models of both
logger = logging.getLogger(__name__)


class CorrectCase(InferTask):
    """Mends one label of a case by what a client has drawn, all of it sent each time; answers with a binary mask.

    It needs no model: before there is one, it looks at the images alone.
    """

    def __init__(self, segmenting: SegmentCase, corrector: Corrector, kind: InferType, words: str) -> None:
        spec = segmenting.spec
        super().__init__(
            type=kind,
            labels={label.name: label.value for label in spec.labels},
            dimension=3,
            description=f"{spec.title}: {words} mend one label, seen in all modalities of a case",
            config={"grid": ["reference", *spec.modality_names]},
        )
        self.segmenting = segmenting
        self.corrector = corrector

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        with answering():
            return self._answer(request)

    @abstractmethod
    def _drawn(self, request: dict[str, Any], case: Case, asked: tuple[str, int]) -> Drawn:
        """What a client has drawn.

        Args:
            asked: the image that the request is about, and the value of the label to mend.

        Raises:
            CaseError: nothing is drawn, or it does not fit the case.
        """

    def _answer(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        began = time.monotonic()
        case, asked = self.segmenting.asked(request)
        spec = self.segmenting.spec
        name = str(request.get("label") or request.get("selected_label_name") or spec.labels[0].name)
        value = spec.value_of(name)
        if value is None:
            raise CaseError(f"expected a label of {[label.name for label in spec.labels]}, got {name!r}")
        drawn = self._drawn(request, case, (asked, value))
        with Turns(self.segmenting.registry.turns).inference():
            model = self._model(str(request.get("device") or ""))
            start = drawn.label or self._proposed(case, drawn.image, model)
            result = self.corrector.correct(case, start, drawn.marked, model)
        label = drawn.settled(result.label)
        file = write_answer(request, case, Volume((label.voxels == value).astype(np.uint8), label.affine))
        seconds = round(time.monotonic() - began, 2)
        count = len(drawn.marked.applied)
        logger.info("case %s on %s: %s prompts on %s, %s s", case.id, drawn.image, count, name, seconds)
        params = {
            "label_names": {name: 1},
            "latencies": {"total": seconds},
            "case": case.id,
            "grid": drawn.image,
            "model_version": model.version if model else "",
            "gained_ml": result.gained_ml,
            "lost_ml": result.lost_ml,
        }
        return str(file), params

    def mend(self, case: Case, label: Volume, marked: Marked) -> Corrected:
        """A viewer's own label map after its newest prompt."""
        with answering(), Turns(self.segmenting.registry.turns).inference():
            return self.corrector.correct(case, label, marked, self._model(""))

    def _proposed(self, case: Case, image: str, model: Model | None) -> Volume:
        """The model's own answer, or nothing before there is a model."""
        start = empty(case, image)
        return Volume(segment(model, case, image, self.segmenting.spec).label, start.affine) if model else start

    def _model(self, device: str) -> Model | None:
        try:
            return self.segmenting.model(device)
        except ModelError:
            return None  # there is none yet: the images alone


class CorrectByClicks(CorrectCase):
    """Starts from the model's own answer; clicks are voxel indices of the image that is asked for."""

    def __init__(self, segmenting: SegmentCase, corrector: Corrector) -> None:
        super().__init__(segmenting, corrector, InferType.DEEPGROW, "clicks")

    def _drawn(self, request: dict[str, Any], case: Case, asked: tuple[str, int]) -> Drawn:
        image, value = asked
        grid = read_grid(case.grids[image])
        clicks = [
            *_clicks(request.get("background") or (), grid, inside=False),
            *_clicks(request.get("foreground") or (), grid, inside=True),
        ]
        if not clicks:
            raise CaseError("expected clicks: foreground, background, or both, as voxel indices of the image")
        return Drawn(image, None, Marked(value, clicks, len(clicks)))


class CorrectByScribbles(CorrectCase):
    """Starts from the labelmap that is sent, which holds the scribbles too; answers on its grid.

    3D Slicer writes the n-th value of the answer into the n-th segment that it asked about, and asks about one: so the
    mask is binary, whatever the label's value is.
    """

    def __init__(self, segmenting: SegmentCase, corrector: Corrector) -> None:
        super().__init__(segmenting, corrector, InferType.SCRIBBLES, "scribbles")

    def _drawn(self, request: dict[str, Any], case: Case, asked: tuple[str, int]) -> Drawn:
        if not request.get("labelmap"):
            raise LabelError("expected a labelmap with scribbles in the form's file label, got none")
        segments = [Segment(known["name"], known["idx"]) for known in request.get("label_info") or ()]
        return read_scribbles(case, read_label(Path(request["labelmap"])), self.segmenting.spec, segments, asked)


def _clicks(places: Sequence[Sequence[int]], grid: Grid, inside: bool) -> list[Prompt]:
    return [Prompt((grid.affine @ (*place, 1.0))[None, :3], inside) for place in places]
