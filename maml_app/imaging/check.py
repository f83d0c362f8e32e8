"""What is wrong with a case, in plain words, before anyone trains on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import MamlError
from maml_app.imaging.labels import read_case_label, volumes_ml
from maml_app.imaging.plausible import suv_scale
from maml_app.imaging.reading import readings
from maml_app.imaging.volume import Grid


@dataclass(frozen=True)
class Finding:
    """One case as `check` shows it, and as training and inference take it.

    Attributes:
        grids: by modality, of those that can be used.
        left_out: modalities that the case has and that cannot be used, and why.
        label: the label in words.
        refused: why the case is not trained on or scored against, although it has a label; '' if it is, or has none.
        notes: what is odd and can be used all the same.
    """

    case: Case
    grids: dict[str, Grid]
    left_out: Mapping[str, str]
    label: str
    refused: str
    notes: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        told = [f"{name}: {reason}" for name, reason in self.left_out.items()]
        return (*told, *([f"label: {self.refused}"] if self.refused else []), *self._of_case)

    @property
    def _of_case(self) -> tuple[str, ...]:
        return () if self.refused else self.case.problems


def inspect(case: Case, spec: TaskSpec) -> Finding:
    """Read every file of a case and collect all that is wrong with it; raises nothing for a broken file."""
    notes = list(case.notes)
    grids: dict[str, Grid] = {}
    left_out: dict[str, str] = {}
    for reading in readings(case, spec):
        name = reading.modality.name
        if reading.volume is None:
            left_out[name] = reading.problem
            continue
        grids[name] = reading.volume.grid
        if reading.modality.kind == "PET" and suv_scale(reading.volume.voxels) != 1:
            notes.append(f"{name}: read as hundredths of SUV")
    ordered = {name: grids[name] for name in spec.modality_names if name in grids}
    label, refused = _label(case, spec)
    if case.label and not refused and not grids:
        refused = "no image of the case can be used"
    return Finding(case, ordered, left_out, label, refused, tuple(notes))


def usable(cases: Sequence[Case], spec: TaskSpec, skip: Callable[[str, str], None]) -> list[Case]:
    """Labelled cases that can be trained on and scored against; `skip` is called with the others, and why."""
    kept = []
    for case in cases:
        finding = inspect(case, spec)
        if finding.refused:
            skip(case.id, finding.refused)
        else:
            kept.append(case)
    return kept


def _label(case: Case, spec: TaskSpec) -> tuple[str, str]:
    """The label in words, and why it is not used."""
    if case.label is None:
        return "–", ""
    try:
        label = read_case_label(case, spec)
    except MamlError as error:
        return "unusable", str(error)
    volumes = [f"{name} {ml:.1f} ml" for name, ml in volumes_ml(label, spec).items()]
    return f"{case.label.id}: {', '.join(volumes) or 'empty'}", ""
