"""From a case to a label map: the path that the server and the command line share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ImageError, ModelError, SettingsError
from maml_app.evaluation.evaluate import Segmenter
from maml_app.evaluation.quality import soft_dice
from maml_app.evaluation.uncertainty import foreground_entropy
from maml_app.imaging.files import read_grid
from maml_app.imaging.geometry import restore_label
from maml_app.imaging.labels import volumes_ml
from maml_app.imaging.preprocess import prepare
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.machine import is_out_of_memory
from maml_app.network.checkpoint import Checkpoint, load_checkpoint
from maml_app.network.compiled import Compiled, Engine, is_installed
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.network.window import predict_opinions
from maml_app.versions.kept import Kept, content_key, half
from maml_app.versions.registry import ModelRegistry
from maml_app.versions.shelf import Seen

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model and where it came from."""

    version: str
    network: SegmentationNetwork
    checkpoint: Checkpoint
    device: torch.device
    kept: Kept = field(default_factory=Kept)
    compiled: Compiled | None = None

    def segmenter(self, spec: TaskSpec) -> Segmenter:
        """The model at work on a task's cases."""
        return Segmenter(self.network, spec, self.checkpoint.patch, self.device)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """An answer: the label map (X, Y, Z) uint8 on `grid`, and what was used for it.

    Attributes:
        missing: modalities that were not used; `left_out` are those of them that the case has, and why they cannot be.
        volume_ml: millilitres by label name.
        centroids: label name -> voxel index of its centre; labels that are not there are left out.
        uncertainty: mean entropy of the likely foreground, 0 to 1.
        promised: the Dice that it promises itself, by scored name, as `soft_dice`.
    """

    label: Array
    grid: Grid
    used: tuple[str, ...]
    missing: tuple[str, ...]
    volume_ml: dict[str, float]
    centroids: dict[str, tuple[float, float, float]]
    uncertainty: float
    left_out: Mapping[str, str]
    promised: Mapping[str, float]


def pick_device(name: str = "") -> torch.device:
    """The device of this name; without one the GPU if there is one, else the CPU.

    Raises:
        SettingsError: this machine has no such device.
    """
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    there += [f"cuda:{index}" for index in range(torch.cuda.device_count())] if "cuda" in there else []
    if not name:
        return torch.device("cuda" if "cuda" in there else "cpu")
    if name not in there:
        raise SettingsError(f"device: expected one of this machine's, {', '.join(there)}, got {name!r}")
    return torch.device(name)


def load_model(path: Path, spec: TaskSpec, version: str, device: torch.device, engine: Engine = "torch") -> Model:
    """Load a model file for the task.

    Args:
        engine: what runs the network on a CPU; "auto" is OpenVINO where it is installed.

    Raises:
        ModelError: missing, damaged, or of another task.
    """
    network, checkpoint = load_checkpoint(path, spec.name, spec.signature(), device)
    network.eval()
    compiled = None
    if device.type == "cpu" and engine != "torch" and (engine != "auto" or is_installed()):
        compiled = Compiled(network, checkpoint.patch, half=engine == "openvino-bf16")
    return Model(version, network, checkpoint, device, compiled=compiled)


def load_served(
    registry: ModelRegistry,
    spec: TaskSpec,
    device: torch.device,
    have: Model | None = None,
    engine: Engine = "torch",
) -> Model:
    """The served model; if its file is damaged or of an older form of the task, the last good one served before it.

    Args:
        have: a model loaded earlier; it is returned again if it is still the one.

    Raises:
        ModelError: none was published yet, or none that was served can be used; the message is that of the newest.
    """
    first: ModelError | None = None
    for version in dict.fromkeys(reversed(registry.history())):
        if have is not None and (have.version, have.device) == (version, device):
            return have
        try:
            return load_model(registry.path(version), spec, version, device, engine)
        except ModelError as error:
            logger.warning("%s cannot be served, the one before it is: %s", version, error)
            first = first or error
    raise first or ModelError(
        f"there is no model for {spec.title} yet: save some labels, then start training; segmentations are offered "
        "from then on"
    )


def look(model: Model, case: Case, spec: TaskSpec, leave_out: Sequence[str] = ()) -> Seen:
    """What a model says of a case; what it said of the same images before is not computed again.

    Raises:
        CaseError: no image of the case can be used, or the memory is full.
    """
    images = {name: ref for name, ref in case.images.items() if name not in leave_out}

    def see() -> Seen:
        prepared = prepare(replace(case, images=images), spec)
        there = prepared.images.to(model.device), prepared.presence.to(model.device)
        answer = model.compiled.answer(prepared.presence) if model.compiled else None
        try:
            return Seen(prepared, half(predict_opinions(model.network, *there, model.checkpoint.patch, answer)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()  # nothing without a GPU
            raise ImageError(
                f"case {case.id}: expected memory for {tuple(prepared.grid.shape)} voxels on {model.device}, got none; "
                "wait until a training has ended, or ask for the CPU with the device option"
            ) from None

    return model.kept.of(content_key(case, list(images)), see)


def segment(model: Model, case: Case, asked: str, spec: TaskSpec, leave_out: Sequence[str] = ()) -> Segmentation:
    """Segment a case from all of its modalities, on the grid of the modality (or other series) that is asked for.

    Args:
        leave_out: modalities to do without although they are there.

    Raises:
        CaseError: the image that is asked for has no place, no image of the case can be used, or the memory is full.
    """
    grid = read_grid(case.grids[asked])
    seen = look(model, case, spec, leave_out)
    prepared, probabilities = seen.prepared, seen.opinions.fused
    label = restore_label(probabilities, prepared.grid, grid)
    volumes = {**dict.fromkeys(spec.label_values.values(), 0.0), **volumes_ml(Volume(label, grid.affine), spec)}
    there = {name: label == value for value, name in spec.label_values.items()}
    centroids = {name: _centre(mask) for name, mask in there.items() if mask.any()}
    return Segmentation(
        label,
        grid,
        prepared.used,
        tuple(name for name in spec.modality_names if name not in prepared.used),
        volumes,
        centroids,
        foreground_entropy(probabilities),
        prepared.left_out,
        soft_dice(probabilities, spec.scored),
    )


def _centre(there: Array) -> tuple[float, float, float]:
    """The mean index of what is true in (X, Y, Z), by sums along each axis: a list of places may be millions long."""
    x, y, z = (
        float(np.average(np.arange(size), weights=there.sum(axis=tuple(other for other in range(3) if other != axis))))
        for axis, size in enumerate(there.shape)
    )
    return x, y, z
