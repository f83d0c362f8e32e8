"""A label map that someone sends: its values brought to the task's, its grid checked against the case's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError, MamlError
from maml_app.imaging.files import read_grid, read_label
from maml_app.imaging.labels import off_grid, to_task_values
from maml_app.imaging.volume import Volume


def checked_label(case: Case, file: Path, spec: TaskSpec, info: dict[str, Any], asked: str) -> tuple[Volume, str]:
    """The label map in a file, with the task's values, and the image (a key of `case.grids`) on whose grid it lies.

    `asked` is preferred where several images share a grid.

    Raises:
        LabelError: values or segment names that are not the task's, or a grid that is none of the case's.
    """
    label = _renumbered(read_label(file), spec, info)
    label = to_task_values(label, spec, case.id)
    grids, broken = {}, []
    for name in sorted(case.grids, key=lambda name: name != asked):
        try:
            grids[name] = read_grid(case.grids[name])
        except MamlError as error:
            broken.append(f"\n  {name} cannot be used: {error}")
            continue
        if grids[name].same_as(label.grid):
            return label, name
    raise LabelError(f"case {case.id}: {off_grid(label.grid, grids)}{''.join(broken)}")


def volumes_ml(label: Volume, spec: TaskSpec) -> dict[str, float]:
    """Volume of each label that is there, ml."""
    values, counts = np.unique(label.voxels, return_counts=True)
    return {
        spec.label_values[int(value)]: round(float(count) * label.grid.voxel_ml, 4)
        for value, count in zip(values, counts, strict=True)
        if value
    }


def _renumbered(label: Volume, spec: TaskSpec, info: dict[str, Any]) -> Volume:
    """Undo a viewer's own numbering: `label_info` names what each value means (Slicer counts segments 1..N).

    Raises:
        LabelError: a name that is no label of the task.
    """
    entries = info.get("label_info") or []
    table = np.arange(256, dtype=np.uint8)
    named = False
    for position, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict) or "name" not in entry:
            continue
        sent = entry.get("idx") or position + 1
        if not isinstance(sent, int) or not 1 <= sent <= 255:
            raise LabelError(f"label_info: expected idx as a whole number from 1 to 255, got {sent!r}")
        value = spec.value_of(str(entry["name"]))
        used = bool((label.voxels == sent).any())
        if value is None and used:
            known = [one.name for one in spec.labels]
            raise LabelError(f"label value {sent}: expected a segment named one of {known}, got {entry['name']!r}")
        if value is not None:
            table[sent] = value
            named = True
    return Volume(table[label.voxels], label.affine) if named else label
