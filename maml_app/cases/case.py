"""The case: one patient's set of co-acquired modalities, with at most one label map."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from maml_app.cases.history import FINAL, ORIGINAL, State
from maml_app.cases.values import Meaning
from maml_app.errors import CaseError, ObjectError

__all__ = ["FINAL", "ORIGINAL", "Case", "FileRef", "LabelRef", "check_id", "subsets"]

CASE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def check_id(case_id: str, what: str = "case id") -> str:
    """Return the id if it is a plain name.

    Raises:
        CaseError: it holds anything but letters, digits, dot, underscore and hyphen, or starts with a dot.
    """
    if not CASE_ID.fullmatch(case_id) or ".." in case_id:
        raise CaseError(
            f"{what} {case_id!r}: expected letters, digits, '.', '_' or '-' only, no '..' and no leading '.'"
        )
    return case_id


@dataclass(frozen=True)
class FileRef:
    """Where one 3D image lies: a file, and the channel if the file is 4D.

    `fetch` is given for an image in an archive: it puts the file at `path`, and does nothing if it is there.
    """

    path: Path
    channel: int | None = None
    fetch: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    def local(self) -> Path:
        """The file's path, with the file there if it can be had."""
        if self.fetch:
            self.fetch()
        return self.path

    def found(self) -> Path | None:
        """As `local`, or None where there is no such file, or the archive does not give it: who reads it says why.

        Raises:
            ArchiveError: the archive cannot be asked now.
        """
        try:
            path = self.local()
        except (CaseError, ObjectError):
            return None
        return path if path.is_file() else None

    def __str__(self) -> str:
        return f"{self.path}" if self.channel is None else f"{self.path}[{self.channel}]"


@dataclass(frozen=True)
class LabelRef:
    """One stored label map. Version 0 is the file that came with the images; `fetch` as in FileRef.

    `problem` says why it cannot be used, as when there are two for one case. `meaning` tells what its values mean;
    without it they are the task's own. `mark` is for stores whose labels can go away: with it an id is never another
    label's. `state` is what it counts for. `held_out` labels are of a test set: they score models and never teach one.
    """

    path: Path
    version: int
    tag: str = FINAL
    fetch: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    problem: str = field(default="", compare=False)
    meaning: Callable[[], Meaning] | None = field(default=None, compare=False, repr=False)
    mark: str = ""
    state: State = State.FINAL
    held_out: bool = field(default=False, compare=False)

    def local(self) -> Path:
        """The file's path, with the file there if it can be had."""
        if self.fetch:
            self.fetch()
        return self.path

    @property
    def id(self) -> str:
        return f"{self.tag}-{self.version:04d}{'-' if self.mark else ''}{self.mark}"


@dataclass(frozen=True)
class Case:
    """One case: `images` maps modality name to its file; absent modalities are simply not there.

    `labels` are all that are stored, oldest first, proposals included; `label` is the one that counts. `problems` are
    of the case as a whole: it is not trained on. `left_out` are modalities whose files cannot be used, and why; what
    only the files' content tells is found by `imaging/reading.py`. Cases from a DICOM archive also have `study`, the
    StudyInstanceUID; `series`, modality -> SeriesInstanceUID; and `others`, series in the same frame of reference that
    are no modality of the task but may be asked for, by SeriesInstanceUID.
    """

    id: str
    images: dict[str, FileRef]
    labels: tuple[LabelRef, ...] = ()
    patient: str = ""
    problems: tuple[str, ...] = field(default=(), compare=False)
    left_out: Mapping[str, str] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    study: str = ""
    series: Mapping[str, str] = field(default_factory=dict, compare=False)
    others: Mapping[str, FileRef] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        check_id(self.id)

    @property
    def label(self) -> LabelRef | None:
        """The newest final label that stands: the last."""
        return next((label for label in reversed(self.labels) if label.tag == FINAL and label.state.stands), None)

    @property
    def held_out(self) -> bool:
        """Whether the case is of a test set, whoever labelled it since."""
        return any(label.held_out for label in self.labels)

    @property
    def grids(self) -> dict[str, FileRef]:
        """Every image on whose grid an answer can be given, or a label lie: by modality, or by series UID."""
        return {**self.images, **self.others}

    @property
    def patient_id(self) -> str:
        """What the validation split is keyed on: the patient where known, else the case."""
        return self.patient or self.id

    def missing(self, modalities: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in modalities if name not in self.images)

    def frame_modality(self, preference: Sequence[str]) -> str:
        """The present modality that lends the case its frame (see TaskSpec.preference).

        Raises:
            CaseError: the case has no image of the task.
        """
        for name in preference:
            if name in self.images:
                return name
        raise CaseError(f"case {self.id}: expected at least one of {list(preference)}, got none")


def subsets(modalities: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every non-empty subset of the modalities, single ones first, in order."""
    for size in range(1, len(modalities) + 1):
        yield from combinations(modalities, size)
