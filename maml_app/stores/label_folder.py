"""Labels in a folder: `<root>/<case>/final-0001.nii.gz`, each with its record in its header, indexed by the ledger."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from maml_app.cases.case import LabelRef, check_id
from maml_app.cases.history import Decision, Entry, Recorded, State
from maml_app.cases.spec import TaskSpec
from maml_app.cases.values import Meaning, named_meaning, values_by_name
from maml_app.errors import CaseError, StudiesError
from maml_app.imaging.files import add_label, read_record
from maml_app.imaging.volume import Volume
from maml_app.stores.decisions import Decisions
from maml_app.stores.gather import settled_stamp
from maml_app.stores.ledger import Ledger

NAME = re.compile(r"([A-Za-z0-9_]+)-(\d{4,})\.nii\.gz")
LOCK = ".lock"


class LabelFolder:
    """The labels below a folder. What other programs put there or take away is seen at the next look."""

    def __init__(self, root: Path, ledger: Ledger, spec: TaskSpec) -> None:
        self.root = root
        self.ledger = ledger
        self.spec = spec
        self._decisions = Decisions(root)

    def refs(self, case: str) -> tuple[LabelRef, ...]:
        """The labels of a case that are there, oldest first."""
        self._look(case)
        return self._refs(case, self.ledger.history(case))

    def every(self) -> dict[str, tuple[LabelRef, ...]]:
        """The labels of all cases that have any."""
        return {case: self._refs(case, found) for case, found in self.histories().items()}

    def _refs(self, case: str, found: list[Recorded]) -> tuple[LabelRef, ...]:
        return tuple(
            LabelRef(
                self.root / case / f"{label.entry.label}.nii.gz",
                label.entry.version,
                label.entry.tag,
                meaning=self._meaning(label.entry),
                state=label.state,
            )
            for label in found
            if label.state != State.GONE
        )

    def _meaning(self, entry: Entry) -> Callable[[], Meaning] | None:
        """What the values mean, by their names then, where the task numbers its labels otherwise now."""
        if not entry.values or dict(entry.values) == values_by_name(self.spec):
            return None
        return partial(named_meaning, entry.values, self.spec, f"the record of {entry.label}")

    def history(self, case: str) -> list[Recorded]:
        self._look(case)
        return self.ledger.history(case)

    def histories(self) -> dict[str, list[Recorded]]:
        self._look_at_all()
        return {case: found for case, found in self.ledger.histories().items() if found}

    def add(self, entry: Entry, label: Volume) -> Entry:
        """Store a label map under the next number, which is told in the entry that is returned.

        Raises:
            StudiesError: it cannot be written; nothing was.
        """
        folder = self.root / check_id(entry.case)
        version = max((found.entry.version for found in self.history(entry.case)), default=0) + 1
        while True:
            numbered = entry.model_copy(update={"version": version, "label": f"{entry.tag}-{version:04d}"})
            try:
                add_label(folder / f"{numbered.label}.nii.gz", label, numbered.model_dump_json())
                break
            except FileExistsError:  # saved by a process that does not hold the case
                version += 1
            except OSError as error:
                raise StudiesError(f"{folder}: the label could not be stored, nothing was written ({error})") from None
        return numbered

    def decide(self, decision: Decision) -> None:
        """Keep a decision about a label.

        Raises:
            CaseError: there is no such label.
        """
        known = [label.entry.label for label in self.history(decision.case)]
        if decision.label not in known:
            raise CaseError(f"case {decision.case}: expected a label of {known}, got {decision.label!r}")
        self._decisions.add(decision)

    @contextmanager
    def holding(self, case: str) -> Iterator[None]:
        """Hold a case against other threads, processes and hosts.

        Raises:
            StudiesError: the folder cannot be written to.
        """
        with hold(self.root / check_id(case) / LOCK):
            yield

    def _look_at_all(self) -> None:
        stamps = self.ledger.stamps()
        seen = set()
        try:
            with os.scandir(self.root) as entries:
                folders = [(entry.name, settled_stamp(entry)) for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            folders = []
        except OSError as error:
            raise StudiesError(f"{self.root}: the labels cannot be listed ({error})") from None
        for name, stamp in folders:
            seen.add(name)
            if stamp is None or stamps.get(name) != str(stamp):
                self._read(name, stamp, stamps.get(name))
        for name in stamps.keys() - seen:
            if stamps[name] != "-1":  # told already
                self._read(name, -1, stamps[name])

    def _look(self, case: str) -> None:
        stamp = settled_stamp(self.root / check_id(case))
        known = self.ledger.stamp(case)
        if stamp is None or known != str(stamp):
            self._read(case, stamp, known)

    def _read(self, case: str, stamp: int | None, known_stamp: str | None) -> None:
        """Tell the ledger what lies in a case's folder, if there is anything to tell."""
        folder = self.root / case
        try:
            names = sorted(path.name.removesuffix(".nii.gz") for path in folder.iterdir() if NAME.fullmatch(path.name))
        except OSError:
            names = []
        known = {label.entry.label: label for label in self.ledger.history(case)}
        decisions = self._decisions.of(case)
        new = [name for name in names if name not in known]
        same = set(names) == {name for name, label in known.items() if not label.gone}
        decided = sum(len(label.decisions) for label in known.values())
        text = "" if stamp is None else str(stamp)
        if new or not same or len(decisions) != decided or text != known_stamp:
            entries = {name: _entry(folder, name) if name in new else None for name in names}
            if known_stamp is not None or entries or decisions:
                self.ledger.write(case, text, entries, decisions)


def _entry(folder: Path, name: str) -> Entry:
    """A label's record, from its header, else what an older version kept beside it."""
    path = folder / f"{name}.nii.gz"
    tag, _, version = name.rpartition("-")
    place = {"case": folder.name, "label": name, "version": int(version), "tag": tag}
    try:
        return Entry.model_validate_json(read_record(path)).model_copy(update=place)
    except ValidationError:
        pass
    try:
        saved = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        saved = datetime.fromtimestamp(0, UTC)
    try:
        beside = json.loads(path.with_name(f"{name}.json").read_text(encoding="utf-8"))
        told = beside.get("info") or {}
        author = str(told.get("author") or told.get("client_id") or "")
        return Entry.model_validate(
            {**place, "saved": beside["saved"], "author": author, "volume_ml": beside.get("volume_ml", {})}
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return Entry.model_validate({**place, "saved": saved})


@contextmanager
def hold(lock: Path) -> Iterator[None]:
    """Hold a lock file for the time of a `with` block; it ends with its process.

    Raises:
        StudiesError: it cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StudiesError(f"{lock.parent}: nothing can be stored there ({error})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
