"""Scores of cases on disk: computed once for a model version and case, kept with a picture of the worst slice.

<root>/v0003/CASE.json   what `CaseScore` holds
<root>/v0003/CASE.png    the slice where the experts disagree most, with their contours
<root>/none/CASE.json    before the first model: what the images look like, for diversity alone
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from maml_app.cases.case import Case, check_id
from maml_app.choosing.worth import COLD, CaseScore
from maml_app.disk import write_bytes, write_text
from maml_app.errors import StudiesError

logger = logging.getLogger(__name__)


@lru_cache(maxsize=8)
def shared_scores(root: Path) -> ScoreStore:
    """One store a folder for all who ask in this process, so that a file is read once."""
    return ScoreStore(root)


class ScoreStore:
    """The scores that are kept under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[tuple[int, int], CaseScore | None]] = {}
        self._lock = threading.Lock()

    def read(self, version: str) -> dict[str, CaseScore]:
        """All scores of a version by case id; a damaged file counts as not there. Files that are as they were when they
        were last read are not read again."""
        found = {}
        try:
            with os.scandir(self.root / version) as entries, self._lock:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith("."):
                        score = self._score(entry)
                        if score:
                            found[entry.name.removesuffix(".json")] = score
        except OSError:
            return {}
        return found

    def _score(self, entry: os.DirEntry[str]) -> CaseScore | None:
        try:
            state = entry.stat()
        except OSError:
            return None
        stamp = state.st_mtime_ns, state.st_ino  # each is written anew under another inode
        known = self._known.get(entry.path)
        if known and known[0] == stamp:
            return known[1]
        score = None
        try:
            content = json.loads(Path(entry.path).read_text(encoding="utf-8"))
            content |= {name: tuple(content.get(name, ())) for name in ("present", "features", "left_out")}
            score = CaseScore(**content)
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: no score that can be read (%s); the case will be scored anew", entry.path, error)
        self._known[entry.path] = stamp, score
        return score

    def best(self, versions: Sequence[str], waiting: Sequence[str]) -> dict[str, CaseScore]:
        """The scores to choose by: those of the newest version that has half of the waiting cases, else the fullest."""
        fullest: dict[str, CaseScore] = {}
        reached = -1
        for version in [*reversed(versions), COLD]:
            scores = self.read(version)
            count = sum(case in scores for case in waiting)
            if 2 * count >= len(waiting) and scores:
                return scores
            if count > reached:
                fullest, reached = scores, count
        return fullest

    def picture(self, version: str, case_id: str) -> Path | None:
        """The picture of a case, if there is one."""
        path = self.root / version / f"{check_id(case_id)}.png"
        return path if path.is_file() else None

    def write(self, score: CaseScore, picture: bytes) -> None:
        """Keep a score and its picture.

        Raises:
            StudiesError: they cannot be written.
        """
        folder = self.root / score.version
        try:
            if picture:
                write_bytes(folder / f"{score.case}.png", picture)
            write_text(folder / f"{score.case}.json", json.dumps(asdict(score)))
        except OSError as error:
            raise StudiesError(f"{folder}: scores could not be written ({error})") from None

    def waiting(self, cases: Sequence[Case], version: str) -> list[Case]:
        """Cases that have no score of this version, or one from before a modality came or went; unlabelled first."""
        scores = self.read(version)
        had = {case_id: {*score.present, *score.left_out} for case_id, score in scores.items()}
        stale = [case for case in cases if had.get(case.id) != {*case.images, *case.left_out}]
        return sorted(stale, key=lambda case: case.label is not None)
