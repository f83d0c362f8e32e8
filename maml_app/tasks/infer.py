"""The infer task: a proposal for a case, on the grid of the image that is on the annotator's screen."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from maml_app.cases.case import Case, FileRef
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import OWN, TaskSpec
from maml_app.cases.values import returnable
from maml_app.disk import private_folder
from maml_app.errors import CaseError, ImageError
from maml_app.imaging.files import write_label
from maml_app.imaging.labels import check_convention, from_task_values
from maml_app.imaging.preprocess import form
from maml_app.imaging.volume import Array, Volume
from maml_app.labelling.proposals import Proposals
from maml_app.machine import Turns, go_on
from maml_app.network.compiled import Engine
from maml_app.tasks.answers import answering
from maml_app.versions.kept import Kept
from maml_app.versions.overlays import doubt_levels
from maml_app.versions.predict import Model, load_served, pick_device, segment
from maml_app.versions.registry import ModelRegistry
from maml_app.versions.shelf import Shelf

logger = logging.getLogger(__name__)


class SegmentCase(InferTask):
    """Segments from all modalities of a case. Follows the registry: a newly published version answers at once.

    A request may hold `upload`, the path of an image that is in no study, and `folder`, where the answer is written.

    Args:
        seen_gb: room on disk for what models saw of cases; 0: they are known in memory alone.
    """

    def __init__(
        self,
        source: CaseSource,
        spec: TaskSpec,
        registry: ModelRegistry,
        engine: Engine = "torch",
        seen_gb: float = 0.0,
    ) -> None:
        config: dict[str, Any] = {"grid": ["reference", *spec.modality_names]}
        if returnable(spec):
            config["convention"] = [OWN, *returnable(spec)]
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={label.name: label.value for label in spec.labels},
            dimension=3,
            description=f"{spec.title}: segments from all modalities of a case ({', '.join(spec.modality_names)})",
            config=config,
        )
        self.source = source
        self.spec = spec
        self.registry = registry
        self.engine = engine
        self.seen_gb = seen_gb
        self._model: Model | None = None
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        return True  # listed before the first training too, so that clients show it and get a clear answer

    def get_path(self, validate: bool = True) -> str | None:
        version = self.registry.served()
        return str(self.registry.path(version)) if version else None

    def model(self, device_name: str = "") -> Model:
        """The served model, loaded once a version and device. Raises ModelError as `load_served`."""
        with self._lock:
            model = load_served(self.registry, self.spec, pick_device(device_name), self._model, self.engine)
            if model is not self._model:
                shelf = self._shelf(model.version) if self.seen_gb else None
                self._model = replace(model, kept=Kept(shelf=shelf))
            return self._model

    def _shelf(self, version: str) -> Shelf:
        told = hashlib.sha256(f"{form(self.spec)} {self.engine}".encode()).hexdigest()[:8]
        return Shelf(self.registry.seen / f"{version}-{told}", self.seen_gb * 1e9)

    def doubt(self, case: Case, asked: str, of: str) -> Array:
        """Where the served model is not sure, or its experts disagree, as levels on an image's grid."""
        with answering(), Turns(self.registry.turns).inference():
            return doubt_levels(self.model(), case, of, asked, self.spec)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        with answering():
            return self._answer(request)

    def _answer(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        began = time.monotonic()
        case, asked = self.asked(request)
        convention = _choice(request, "convention", OWN)
        check_convention(self.spec, convention, comes_back=True)
        model = self.model(_choice(request, "device", ""))
        if request.get("upload"):
            model = replace(model, kept=Kept(0))  # what is in no study is not kept
        with Turns(self.registry.turns).inference():
            go_on()  # also where all that is left is to bring a known answer to a grid
            result = segment(model, case, asked, self.spec)
        kept = (
            "" if request.get("upload") else self._keep(case, Volume(result.label, result.grid.affine), model.version)
        )
        label = from_task_values(result.label, self.spec, convention)
        file = write_answer(request, case, Volume(label, result.grid.affine))
        seconds = round(time.monotonic() - began, 2)
        params = {
            "label_names": {known.name: known.value for known in self.spec.labels},
            "centroids": {
                name: [str(self.spec.value_of(name)), *(str(round(axis)) for axis in centre)]
                for name, centre in result.centroids.items()
            },
            "latencies": {"total": seconds},
            "case": case.id,
            "grid": asked,
            "model_version": model.version,
            "proposal": kept,
            "modalities_used": list(result.used),
            "modalities_missing": list(result.missing),
            "modalities_left_out": dict(result.left_out),
            "volume_ml": result.volume_ml,
            "uncertainty": round(result.uncertainty, 4),
            **self._expected(model.version, result.promised),
        }
        logger.info("case %s on %s: %s ml, %s s", case.id, asked, result.volume_ml, seconds)
        return str(file), params

    def _expected(self, version: str, promised: Mapping[str, float]) -> dict[str, float]:
        """The Dice that the answer will have, and how far off that may be (a standard deviation), where it is known."""
        expectation = self.registry.expectation(version)
        dice = expectation.dice(promised) if expectation else None
        if expectation is None or dice is None:
            return {}
        return {"expected_dice": round(dice, 3), "expected_dice_spread": round(expectation.spread, 3)}

    def _keep(self, case: Case, label: Volume, version: str) -> str:
        """Keep the proposal, so that a save can tell what was changed; returns its hash."""
        return Proposals(self.source.state).keep(case.id, label, version)

    def asked(self, request: dict[str, Any]) -> tuple[Case, str]:
        """The case and image that a request is about. Raises CaseError as `CaseSource.resolve`."""
        upload = request.get("upload")
        if upload:
            modality = _choice(request, "grid", "reference")
            if modality not in self.spec.modality_names:
                raise CaseError(
                    f'a file was sent: expected "grid" to name its modality, one of {list(self.spec.modality_names)}, '
                    f"got {modality!r}"
                )
            return Case("upload", {modality: FileRef(Path(upload))}), modality
        case, asked = self.source.resolve(str(request.get("image") or ""))
        grid = _choice(request, "grid", "reference")
        if grid != "reference":
            if grid not in case.grids:
                raise CaseError(f"case {case.id}: expected grid to be one of {sorted(case.grids)}, got {grid!r}")
            asked = grid
        return case, asked


def write_answer(request: dict[str, Any], case: Case, label: Volume) -> Path:
    """Write a label map as a request wants it.

    Raises:
        ImageError: in a format that is not offered.
    """
    extension = str(request.get("result_extension") or ".nii.gz")
    extension = extension if extension.startswith(".") else f".{extension}"
    if extension not in (".nii.gz", ".nii", ".nrrd"):  # it becomes part of a path: nothing else may
        raise ImageError(f"expected result_extension as .nii.gz, .nii or .nrrd, got {extension!r}")
    folder = request.get("folder") or private_folder("answers")
    file = Path(folder) / f"{case.id}-{uuid.uuid4().hex[:12]}{extension}"
    write_label(file, label.voxels, label.affine, compress=bool(request.get("result_compress", True)))
    return file


def _choice(request: dict[str, Any], key: str, default: str) -> str:
    """A string option; Slicer sends a list of choices back as its first item, some clients as the whole list."""
    value = request.get(key) or default
    return str(value[0]) if isinstance(value, list) else str(value)
