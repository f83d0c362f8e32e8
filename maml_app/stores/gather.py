"""What is found of cases while their files are listed, and how it becomes cases."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from maml_app.cases.case import Case, FileRef, LabelRef, check_id
from maml_app.cases.matching import looks_like_label, shows_anatomy, stem
from maml_app.cases.source import Unused
from maml_app.cases.spec import TaskSpec
from maml_app.cases.values import Meaning
from maml_app.errors import CaseError
from maml_app.stores.meaning import LabelFiles

SHOWN = 5  # names in one line
UNSETTLED_NS = 2_000_000_000  # as coarse are the times of some file systems
HELD_OUT = "of a test set: it scores models and never teaches one"
ANATOMY = "a mask of the brain, a tissue or the body by its name, which is no label of a lesion"


@dataclass(frozen=True)
class Listing:
    """The cases of a studies location, sorted by id, and what lies there without being part of one."""

    cases: tuple[Case, ...]
    unused: tuple[Unused, ...]


@dataclass(frozen=True)
class Labelling:
    """A label file: the modality it was drawn on, if its name says so; `rank` 0 goes before 1.

    `meaning` and `held_out` as of LabelRef.
    """

    path: Path
    modality: str | None = None
    rank: int = 0
    meaning: Callable[[], Meaning] | None = None
    held_out: bool = False


@dataclass
class Gathered:
    """Files found for one case, before it is known that they fit. `home` is where they must all come from."""

    home: str
    patient: str
    images: dict[str, list[FileRef]] = field(default_factory=dict)
    labels: list[Labelling] = field(default_factory=list)

    def add(self, modality: str, path: Path, channel: int | None = None) -> None:
        self.images.setdefault(modality, []).append(FileRef(path, channel))

    @property
    def paths(self) -> list[Path]:
        return [ref.path for refs in self.images.values() for ref in refs] + [label.path for label in self.labels]


class Looked:
    """The folders and files that a listing was made from, as they were: while they are the same, so is the listing."""

    def __init__(self) -> None:
        self._stamps: dict[Path, int | None] = {}

    def at(self, path: Path) -> None:
        """Note a place, before it is read."""
        self._stamps[path] = settled_stamp(path)

    def changed(self) -> bool:
        """Whether any of them has changed since, or may have changed in the moment in which it was read."""
        return any(stamp is None or stamp != settled_stamp(path) for path, stamp in self._stamps.items())


def settled_stamp(path: Path | os.DirEntry[str]) -> int | None:
    """When a folder or file was changed; None if that is so short ago that another change could have the same time."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return -1
    return None if time.time_ns() - changed < UNSETTLED_NS else changed


class Gathering:
    """Cases as they are found, and what is not used, each with the reason."""

    def __init__(self, root: Path, spec: TaskSpec) -> None:
        self.root = root
        self.spec = spec
        self.found: dict[str, list[Gathered]] = {}
        self.unused: dict[tuple[str, str, bool], list[str]] = {}
        self.looked = Looked()

    def case(self, case_id: str, home: str = "", patient: str = "") -> Gathered:
        """What is found of a case in one place; places with the same id are told apart by `home`."""
        homes = self.found.setdefault(case_id, [])
        for place in homes:
            if place.home == home:
                return place
        homes.append(Gathered(home, patient))
        return homes[-1]

    def skip(self, path: Path | str, reason: str, wrong: bool = True) -> None:
        """Note a file that is not used."""
        shown = self.shown(path) if isinstance(path, Path) else path
        folder, _, name = shown.rpartition("/")
        self.unused.setdefault((folder, reason, wrong), []).append(name)

    def skip_unknown(self, path: Path) -> None:
        """Note a NIfTI file whose name is none that the task knows."""
        name = stem(path.name) or path.name
        if looks_like_label(name):
            endings = ", ".join(self.spec.label_files)
            reason = f"its name does not end as a label's, with one of {endings}, after the case's name"
            self.skip(path, reason, wrong=not shows_anatomy(name))
        else:
            modalities = ", ".join(self.spec.modality_names)
            self.skip(path, f"its name fits no modality of {modalities}, nor a label", wrong=False)

    def shown(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def listing(self) -> Listing:
        """The cases; those whose id is no plain name, or is taken twice, and labels without images are not used."""
        files = LabelFiles(self.spec)
        cases = []
        for case_id in sorted(self.found):
            homes = self.found[case_id]
            if reason := self._refused(case_id, homes):
                for path in (path for home in homes for path in home.paths):
                    self.skip(path, reason)
                continue
            case = self._build(case_id, homes[0])
            if case.images:
                cases.append(files.added(case))
            else:
                for path in homes[0].paths:
                    self._skip_without_images(path, case)
        unused = [
            Unused(f"{folder}/{_few(names)}" if folder else _few(names), reason, wrong)
            for (folder, reason, wrong), names in self.unused.items()
        ]
        return Listing(tuple(cases), tuple(sorted(unused, key=lambda entry: (not entry.wrong, entry.where))))

    @staticmethod
    def _refused(case_id: str, homes: list[Gathered]) -> str:
        try:
            check_id(case_id)
        except CaseError as error:
            return f"{error}; rename the folder or the files"
        with_images = [home for home in homes if home.images]
        if len(homes) > 1:
            where = " and ".join(home.home or "the top" for home in (with_images or homes))
            return f"expected one place for case {case_id}, got {where}; rename all but one"
        return ""

    def _build(self, case_id: str, found: Gathered) -> Case:
        images: dict[str, FileRef] = {}
        left_out: dict[str, str] = {}
        for modality in self.spec.modality_names:
            refs = sorted(found.images.get(modality, []), key=str)
            if len(refs) > 1:
                names = ", ".join(self._named(found.home, ref.path) for ref in refs)
                left_out[modality] = f"{len(refs)} files for {modality}: {names}; keep one"
            elif refs:
                images[modality] = refs[0]
        labels = (self._label(found),) if found.labels else ()
        notes = (HELD_OUT,) if any(label.held_out for label in labels) else ()
        return Case(case_id, images, labels, found.patient, left_out=left_out, notes=notes)

    def _named(self, home: str, path: Path) -> str:
        """A file's name, with its folder if that is not the case's."""
        shown = self.shown(path)
        return path.name if shown.rpartition("/")[0] == home else shown

    def _label(self, found: Gathered) -> LabelRef:
        order: list[str | None] = [None, *self.spec.preference]  # a plain `label` first, then the reference's own
        best = min((label.rank, order.index(label.modality)) for label in found.labels)
        chosen = [label for label in found.labels if (label.rank, order.index(label.modality)) == best]
        chosen.sort(key=lambda label: label.path)
        problem = ""
        if len(chosen) > 1:
            names = ", ".join(self._named(found.home, label.path) for label in chosen)
            problem = f"{len(chosen)} label files: {names}; keep one"
        first = chosen[0]
        return LabelRef(first.path, version=0, problem=problem, meaning=first.meaning, held_out=first.held_out)

    def _skip_without_images(self, path: Path, case: Case) -> None:
        if case.left_out:
            self.skip(path, "; ".join(case.left_out.values()))
        elif shows_anatomy(stem(path.name) or ""):
            self.skip(path, ANATOMY, wrong=False)
        else:
            self.skip(
                path,
                f"a label by its name, but there is no image of a case {case.id}; a label is called label.nii.gz in "
                "its case's folder, CASE_seg.nii.gz, or as the images are in a folder of labels",
            )


def constant(meaning: Meaning) -> Callable[[], Meaning]:
    """A meaning that is known already, as LabelRef takes it."""
    return partial(_same, meaning)


def _same(meaning: Meaning) -> Meaning:
    return meaning


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
