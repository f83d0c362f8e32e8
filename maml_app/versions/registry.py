"""Model versions on disk: each in a folder that is complete or not there, and one pointer to the served one.

<root>/v0001/model.safetensors   weights, and what they are for
<root>/v0001/report.json         validation, cases and label versions seen
<root>/studies                   the identity of the studies whose cases these are
<root>/served                    the versions served, one a line, the present one last
<root>/prepared/                 cases as the network takes them, used again by the next training
<root>/runs/                     what is kept of each training run
<root>/scores/                   how much there is to learn from each case, by version
<root>/seen/                     what a served version saw of cases, by version and way to run it
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from maml_app.cases.source import CaseSource
from maml_app.disk import workspace, write_atomically, write_text
from maml_app.errors import ModelError
from maml_app.evaluation.quality import Expectation
from maml_app.network.checkpoint import Checkpoint, save_checkpoint
from maml_app.network.ensemble import SegmentationNetwork

VERSION = re.compile(r"v\d{4,}")


def store_model(path: Path, network: SegmentationNetwork, checkpoint: Checkpoint) -> None:
    """Write a model file at `path` atomically, readable at once or not there.

    Raises:
        ModelError: it cannot be written, as when the disk is full; nothing is left.
    """
    try:
        write_atomically(path, lambda part: save_checkpoint(part, network, checkpoint))
    except OSError as error:
        raise ModelError(f"{path}: the model could not be written, nothing was left behind ({error})") from None


class ModelRegistry:
    """The versions of one task's model. Any number of processes may read; one publishes at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self) -> list[str]:
        """Names of complete versions, oldest first."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name
            for path in self.root.iterdir()
            if VERSION.fullmatch(path.name) and (path / "model.safetensors").is_file()
        )

    def history(self) -> list[str]:
        """Versions in the order in which they came to be served; the last one is served now."""
        try:
            lines = (self.root / "served").read_text(encoding="utf-8").split()
        except OSError:
            return []
        known = set(self.versions())
        return [line for line in lines if line in known]

    def served(self) -> str | None:
        """The version that answers now; None before the first is published."""
        history = self.history()
        return history[-1] if history else None

    def path(self, version: str) -> Path:
        return self.root / version / "model.safetensors"

    def report(self, version: str) -> dict[str, Any]:
        """What was noted when the version was published; empty if nothing can be read."""
        try:
            content = json.loads((self.root / version / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def expectation(self, version: str) -> Expectation | None:
        """What Dice to expect of the version's answers; None if too few cases were validated on."""
        report = self.report(version)
        kinds = [report.get(kind) or {} for kind in ("validation", "cross_validation")]
        return Expectation.of(next((found["expectation"] for found in kinds if "expectation" in found), None))

    def store(self, network: SegmentationNetwork, checkpoint: Checkpoint, report: dict[str, Any]) -> str:
        """Keep a new version without serving it. Returns its name.

        Raises:
            ModelError: the disk is full or cannot be written; nothing is left.
        """
        with self.workspace() as work:
            part = work / "version"
            try:
                part.mkdir()
                store_model(part / "model.safetensors", network, checkpoint)
                write_text(part / "report.json", json.dumps(report, indent=1))
                while True:
                    taken = [int(path.name[1:]) for path in self.root.iterdir() if VERSION.fullmatch(path.name)]
                    version = f"v{max(taken, default=0) + 1:04d}"
                    try:
                        part.rename(self.root / version)
                        break
                    except OSError:
                        if not (self.root / version).exists():
                            raise
                        # another training took this name in this very moment
            except OSError as error:
                raise ModelError(
                    f"{self.root}: the model could not be stored, the served one stays ({error})"
                ) from None
        return version

    def annotate(self, version: str, **more: Any) -> None:
        """Add to what is noted about a version.

        Raises:
            ModelError: the report cannot be written.
        """
        try:
            write_text(self.root / version / "report.json", json.dumps({**self.report(version), **more}, indent=1))
        except OSError as error:
            raise ModelError(f"{self.root / version}: the report could not be written ({error})") from None

    def prune(self, keep: int) -> list[str]:
        """Delete all but the newest `keep` versions; never the served one, nor the one before it. Returns their names.

        Raises:
            ModelError: a version cannot be deleted.
        """
        kept = {*self.versions()[-max(1, keep) :], *self.history()[-2:]}
        gone = [version for version in self.versions() if version not in kept]
        with self.workspace() as work:
            try:
                for version in gone:
                    (self.root / version).rename(work / version)  # at once: a reader never sees half a version
            except OSError as error:
                raise ModelError(f"{self.root}: old versions could not be deleted ({error})") from None
        return gone

    def belongs_to(self, source: CaseSource, claim: bool = False) -> None:
        """Nothing, if these models and scores are of these studies, or of none yet: they know cases by their ids only.

        Args:
            claim: tie the registry to the studies, before anything is kept that was learned from them.

        Raises:
            ModelError: they are of other studies.
        """
        path = self.root / "studies"
        try:
            kept = path.read_text(encoding="utf-8").strip()
        except OSError:
            kept = ""
        here = source.identity(claim)
        if kept and kept != here:
            raise ModelError(
                f"{self.root}: expected models and scores of these studies, got some of others, whose cases may "
                f"have the same ids; keep these elsewhere (--conf models DIR, or --models DIR), or delete {path} to "
                "go on with them all the same"
            )
        if claim and not kept:
            try:
                write_text(path, f"{here}\n")
            except OSError as error:
                raise ModelError(f"{path}: could not be written ({error})") from None

    @property
    def prepared(self) -> Path:
        return self.root / "prepared"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def seen(self) -> Path:
        return self.root / "seen"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def turns(self) -> Path:
        """The lock file by which inference goes before training."""
        return self.root / ".inference"

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder for the time of a `with` block, on the models' disk.

        Raises:
            ModelError: the folder cannot be made.
        """
        with ExitStack() as stack:
            try:
                work = stack.enter_context(workspace(self.root))
            except OSError as error:
                raise ModelError(f"{self.root}: expected a folder that can be written to ({error})") from None
            yield work

    def serve(self, version: str) -> None:
        """Serve a stored version from now on; a reader sees the old or the new one, never anything else.

        Raises:
            ModelError: there is no such version, or the pointer cannot be written.
        """
        if version not in self.versions():
            raise ModelError(f"{self.root}: expected a version of {self.versions()}, got {version!r}")
        with self._alone():
            if version != self.served():
                self._point([*self.history(), version])

    def rollback(self) -> str:
        """Serve again what was served before the present version. Returns its name.

        Raises:
            ModelError: there is nothing before it.
        """
        with self._alone():
            history = self.history()
            if len(history) < 2:
                found = history or "none"
                raise ModelError(f"{self.root}: expected an earlier served version to go back to, got {found}")
            self._point(history[:-1])
        return history[-2]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process changes the pointer meanwhile."""
        try:
            folder = os.open(self.root, os.O_RDONLY)
        except OSError as error:
            raise ModelError(f"{self.root}: expected a folder of models ({error})") from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _point(self, history: list[str]) -> None:
        with self.workspace() as work:
            try:
                write_text(work / "served", "\n".join(history) + "\n")
                (work / "served").replace(self.root / "served")
            except OSError as error:
                raise ModelError(f"{self.root}: the served version could not be changed ({error})") from None

    def publish(self, network: SegmentationNetwork, checkpoint: Checkpoint, report: dict[str, Any]) -> str:
        """Store a new version and serve it. Returns its name; raises as `store` and `serve`."""
        version = self.store(network, checkpoint, report)
        self.serve(version)
        return version
