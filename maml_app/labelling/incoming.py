"""A label map that someone sends: its values brought to the task's, its grid checked against the case's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError, MamlError
from maml_app.imaging.files import read_grids
from maml_app.imaging.labels import off_grid, to_task_values
from maml_app.imaging.reading import images_elsewhere
from maml_app.imaging.volume import Volume


@dataclass(frozen=True)
class Segment:
    """One segment of a label map as a viewer names it; `value`: what it is in the map."""

    name: str
    value: int


def checked_label(
    case: Case, label: Volume, spec: TaskSpec, segments: Sequence[Segment], asked: str
) -> tuple[Volume, str]:
    """A label map with the task's values, and the image (a key of `case.grids`) on whose grid it lies.

    Args:
        segments: what its values mean, if they are a viewer's own (Slicer counts segments 1..N).
        asked: the image that is preferred where several share a grid.

    Raises:
        LabelError: values or segment names that are not the task's, or a grid that is none of the case's images that
            can be used.
    """
    label = _renumbered(label, spec, segments)
    label = to_task_values(label, spec, case.id)
    # the series of an archive's case share a frame of reference, and to look at one is to fetch it
    elsewhere = {} if case.study else images_elsewhere(case, spec)
    grids, broken = {}, []
    for name in sorted(case.grids, key=lambda name: name != asked):
        try:
            grid, seen = read_grids(case.grids[name])
        except MamlError as error:
            broken.append(f"\n  {name} cannot be used: {error}")
            continue
        if grid.same_as(label.grid) and name not in elsewhere:
            return label, name
        if seen.same_as(label.grid) and name not in elsewhere:  # drawn where ITK sees the image: on the same voxels
            return Volume(label.voxels, grid.affine), name
        if name in elsewhere:
            broken.append(f"\n  {name} cannot be used: {elsewhere[name]}")
        else:
            grids[name] = grid
    raise LabelError(f"case {case.id}: {off_grid(label.grid, grids)}{''.join(broken)}")


def _renumbered(label: Volume, spec: TaskSpec, segments: Sequence[Segment]) -> Volume:
    """Undo a viewer's own numbering.

    Raises:
        LabelError: a name that is no label of the task, or a value without a name among values that have one.
    """
    table = np.arange(256, dtype=np.uint8)
    named = False
    for segment in segments:
        value = spec.value_of(segment.name)
        if value is None and (label.voxels == segment.value).any():
            known = [known.name for known in spec.labels]
            raise LabelError(
                f"label value {segment.value}: expected a segment named one of {known}, got {segment.name!r}"
            )
        if value is not None:
            table[segment.value] = value
            named = True
    if not named:
        return label
    nameless = {int(value) for value in np.unique(label.voxels)} - {0, *(segment.value for segment in segments)}
    if nameless:
        told = {segment.value: segment.name for segment in segments}
        raise LabelError(f"label value {min(nameless)}: expected a segment that names it, got names of {told} only")
    return Volume(table[label.voxels], label.affine)
