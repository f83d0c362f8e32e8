"""What is wrong with a case, in plain words, before anyone trains on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import MamlError
from maml_app.imaging.files import read_image
from maml_app.imaging.preprocess import normalise, read_case_label, suv_scale
from maml_app.imaging.volume import Grid


@dataclass(frozen=True)
class Finding:
    """One case as `check` shows it: a grid for each readable modality, the label in words, problems and notes."""

    case: Case
    grids: dict[str, Grid]
    label: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def inspect(case: Case, spec: TaskSpec) -> Finding:
    """Read every file of a case and collect all that is wrong with it; raises nothing for a broken file."""
    problems = list(case.problems)
    notes: list[str] = []
    grids: dict[str, Grid] = {}
    for modality in spec.modalities:
        if modality.name not in case.images:
            continue
        try:
            volume = read_image(case.images[modality.name])
            if volume.voxels.min() == volume.voxels.max():
                problems.append(f"{modality.name}: every voxel is {volume.voxels.flat[0]:g}")
            normalise(volume, modality)
            if modality.kind == "PET" and suv_scale(volume.voxels) != 1:
                notes.append(f"{modality.name}: read as hundredths of SUV")
            grids[modality.name] = volume.grid
        except (MamlError, ValueError) as error:
            problems.append(f"{modality.name}: {error}")
    frame = next((name for name in spec.preference if name in grids), None)
    for name, grid in grids.items():
        if frame and not grid.overlaps(grids[frame]):
            problems.append(f"{name} does not overlap {frame} in space: are both from one examination?")
    return Finding(case, grids, _label(case, spec, grids, problems), tuple(problems), tuple(notes))


def _label(case: Case, spec: TaskSpec, grids: dict[str, Grid], problems: list[str]) -> str:
    if case.label is None:
        return "–"
    try:
        label = read_case_label(case, spec)
    except MamlError as error:
        problems.append(f"label: {error}")
        return "unusable"
    on = next((name for name, grid in grids.items() if grid.same_as(label.grid)), None)
    if grids and on is None:
        problems.append(f"label: on no grid of the case's images, {label.grid}")
    values, counts = np.unique(label.voxels[label.voxels > 0], return_counts=True)
    volumes = [
        f"{spec.label_values[int(value)]} {count * label.grid.voxel_ml:.1f} ml"
        for value, count in zip(values, counts, strict=True)
    ]
    return f"{case.label.id}: {', '.join(volumes) or 'empty'}"
