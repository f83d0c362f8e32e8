"""The port to where cases live. Adapters are in `stores`; tasks and learning see only this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from maml_app.cases.case import Case
from maml_app.cases.history import FINAL, Decision, Entry, Recorded, State, Told
from maml_app.cases.series import Choice
from maml_app.cases.spec import TaskSpec


class LabelMap(Protocol):
    """Voxels (X, Y, Z) uint8 with the task's values, and their affine, voxel index -> RAS mm: a Volume is one."""

    @property
    def voxels(self) -> Any: ...

    @property
    def affine(self) -> Any: ...


@dataclass(frozen=True)
class Unused:
    """Files that look like images or labels and belong to no case: where they lie, why, and whether they should.

    `wrong`: they have names that the task knows, or cost a case; else they are merely no images of this task.
    """

    where: str
    reason: str
    wrong: bool = True


class CaseSource(Protocol):
    """Cases by id, and their labels, which are only ever added."""

    def cases(self) -> list[Case]:
        """All cases, sorted by id, each with its labels."""

    def unused(self) -> list[Unused]:
        """What lies among the studies and is part of no case."""

    def identity(self, claim: bool = False) -> str:
        """What tells these studies from others.

        Args:
            claim: keep an identity with them, if they have none yet, that stays when they are moved.
        """

    def case(self, case_id: str) -> Case:
        """One case.

        Raises:
            CaseError: there is no such case.
        """

    def resolve(self, image_id: str) -> tuple[Case, str]:
        """The case and the image (a key of `Case.grids`) that an id asks for.

        `CASE` asks for its reference, `CASE@MODALITY` for that one; in an archive a SeriesInstanceUID does as well.

        Raises:
            CaseError: there is no such case, or the case lacks the modality.
        """

    def save_label(self, case: Case, image: str, label: LabelMap, tag: str, told: Told) -> Entry:
        """Store a label map as a new version; earlier ones stay. It is there, with all that is told, or it is not.

        Args:
            image: on whose grid it lies, a key of `case.grids`.

        Raises:
            LabelError: it cannot be stored as what it is.
            StudiesError: nothing can be written there.
        """

    def history(self, case_id: str) -> list[Recorded]:
        """Every label of a case, oldest first, with what was decided about it."""

    def histories(self) -> dict[str, list[Recorded]]:
        """As `history`, of all cases that have labels."""

    def decide(self, decision: Decision) -> None:
        """Keep what someone decided about a label.

        Raises:
            CaseError: there is no such case or label.
            StudiesError: it cannot be written.
        """

    def holding(self, case_id: str) -> AbstractContextManager[None]:
        """Hold a case while its newest label is compared with one to be saved; others wait."""

    def kept(self, work: Path) -> dict[str, Path]:
        """What a backup has to hold of what is kept about these studies: folders and files, by name.

        Args:
            work: a folder for copies of what cannot be copied as it lies.
        """

    @property
    def state(self) -> Path:
        """A folder of this machine for what the server keeps about these studies."""

    def slices(self, case: Case, asked: str) -> list[str]:
        """Names of the slices along the third axis of an image, as WADO-RS addresses them; [] where there are none."""

    def choices(self, study: str) -> list[Choice]:
        """The series of a study, each with the modality it is taken for and why; [] where images are files."""

    def set_modality(self, series: str, modality: str) -> None:
        """Take a series for this modality from now on, whatever the rules say; '' for none.

        Raises:
            CaseError: there is no such series.
            TaskSpecError: the task has no such modality.
        """

    def info(self, case_id: str) -> dict[str, Any]:
        """Notes about a case, as clients left them (empty if none)."""

    def notes(self) -> Mapping[str, Mapping[str, object]]:
        """`info` of every case that has any, at once."""

    def update_info(self, case_id: str, info: dict[str, Any]) -> None:
        """Merge notes into what is kept about a case, those that hold several as well; others wait meanwhile."""


def teaching(cases: Iterable[Case], spec: TaskSpec) -> list[Case]:
    """The cases that a model may learn from, each as `learnable`: all but those of a test set."""
    return [learnable(case, spec) for case in cases if not case.held_out]


def learnable(case: Case, spec: TaskSpec) -> Case:
    """The case with the labels that count for learning and for scores.

    All, or, where the task asks for a review, those that had one and those that came with the images.
    """
    if not spec.review.required:
        return case
    kept = (label for label in case.labels if label.tag != FINAL or not label.version or label.state == State.REVIEWED)
    return replace(case, labels=tuple(kept))
