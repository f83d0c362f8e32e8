"""What may lie over an image in a viewer, as levels of one colour scale: another modality, or the model's doubt."""

from __future__ import annotations

import math

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import Modality, TaskSpec
from maml_app.errors import CaseError
from maml_app.evaluation.uncertainty import divergence_map, entropy_map
from maml_app.imaging.files import read_grid
from maml_app.imaging.geometry import resample
from maml_app.imaging.plausible import suv_scale
from maml_app.imaging.reading import readings
from maml_app.imaging.volume import Array
from maml_app.versions.predict import Model, look

LEVELS = 12
UNCERTAINTY, DISAGREEMENT = "uncertainty", "disagreement"
SUV_SHOWN = 10.0


def image_levels(case: Case, name: str, asked: str, spec: TaskSpec) -> Array:
    """A modality on another image's grid, (X, Y, Z) uint8: 0 is dark, LEVELS bright, in the window that readers use.

    Raises:
        CaseError: the case has no such modality, or it cannot be used.
    """
    for reading in readings(case, spec):
        if reading.modality.name == name and reading.volume is not None:
            low, high = _window(reading.volume.voxels, reading.modality)
            grid = read_grid(case.grids[asked])
            values = resample(
                torch.from_numpy(np.ascontiguousarray(reading.volume.voxels)), reading.volume.grid, grid, fill=low
            )
            return _levels((values.numpy() - low) / max(high - low, 1e-6))
    raise CaseError(f"case {case.id}: expected a modality that can be shown, got {name!r}")


def doubt_levels(model: Model, case: Case, of: str, asked: str, spec: TaskSpec) -> Array:
    """Where the model is not sure, or its experts disagree, on an image's grid, (X, Y, Z) uint8, 0 to LEVELS."""
    seen = look(model, case, spec)
    if of == UNCERTAINTY:
        doubt = entropy_map(seen.opinions.fused) / math.log(len(seen.opinions.fused))
    else:
        said = [opinion.float() for opinion in seen.opinions.experts.values()]
        doubt = divergence_map(said) / math.log(2) if len(said) > 1 else torch.zeros_like(seen.opinions.fused[0])
    return _levels(resample(doubt, seen.prepared.grid, read_grid(case.grids[asked])).numpy())


def _window(values: Array, modality: Modality) -> tuple[float, float]:
    if modality.kind == "CT" and modality.window:
        return modality.window
    if modality.kind == "PET":
        try:
            return 0.0, SUV_SHOWN / suv_scale(values)
        except ValueError:  # no SUV: what there is
            return 0.0, float(values.max())
    low, high = np.percentile(values, (1, 99))
    return float(low), float(high)


def _levels(share: Array) -> Array:
    levels: Array = np.floor(np.clip(share, 0, 1) * LEVELS).astype(np.uint8)
    return levels
