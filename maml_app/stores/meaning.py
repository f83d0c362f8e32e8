"""What the values in the label files of one data set mean, decided once for all of them, when it is first asked."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from maml_app.cases.case import Case
from maml_app.cases.spec import OWN, TaskSpec
from maml_app.cases.values import Meaning, common_meaning, convention_meaning, own_meaning, stated_convention
from maml_app.errors import MamlError
from maml_app.imaging.files import read_label_values


class LabelFiles:
    """The label files that came with the images of one data set, which have no names for their values."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.files: dict[str, Path] = {}

    def added(self, case: Case) -> Case:
        """The case, its label's meaning told by this set if nothing else does."""
        if not case.labels or case.labels[0].meaning or not self.spec.conventions:
            return case
        label = case.labels[0]
        stated = stated_convention(self.spec, case.id)
        if not stated:
            self.files[case.id] = label.path
        return replace(case, labels=(replace(label, meaning=_Asked(self, stated)), *case.labels[1:]))

    def meaning(self, stated: str = "") -> Meaning:
        """Of a stated convention, else what fits the values of all files.

        Raises:
            LabelError: no numbering fits them all, or several do and disagree.
        """
        if stated:
            why = "as task.yaml says" if self.spec.convention else "as the ids of the cases say"
            return own_meaning(self.spec) if stated == OWN else convention_meaning(self.spec, stated, why)
        found = {}
        for case_id, path in self.files.items():
            try:
                found[case_id] = _values(path, path.stat().st_mtime_ns, path.stat().st_size)
            except (MamlError, OSError):
                continue  # told where the label is used
        return common_meaning(found, self.spec)


class _Asked:
    """What a LabelRef calls; it can be sent to another process."""

    def __init__(self, files: LabelFiles, stated: str) -> None:
        self.files = files
        self.stated = stated

    def __call__(self) -> Meaning:
        return self.files.meaning(self.stated)


@lru_cache(maxsize=100_000)
def _values(path: Path, modified: int, size: int) -> frozenset[int]:
    """The values in a label file; read again when the file has changed."""
    return read_label_values(path)
