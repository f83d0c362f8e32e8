"""Scores of cases on disk: computed once for a model version and case, kept with a picture of the worst slice.

<root>/v0003/CASE.json   what `CaseScore` holds
<root>/v0003/CASE.png    the slice where the experts disagree most, with their contours
<root>/none/CASE.json    before the first model: what the images look like, for diversity alone
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from maml_app.cases.case import Case, check_id
from maml_app.choosing.worth import COLD, CaseScore
from maml_app.disk import write_bytes, write_text
from maml_app.errors import StudiesError


class ScoreStore:
    """The scores that are kept under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, version: str, cases: Sequence[str] | None = None) -> dict[str, CaseScore]:
        """All scores of a version, or those of some cases, by case id; a damaged file counts as not there."""
        found = {}
        folder = self.root / version
        for path in folder.glob("[!.]*.json") if cases is None else [folder / f"{case}.json" for case in cases]:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                content |= {name: tuple(content.get(name, ())) for name in ("present", "features", "left_out")}
                found[path.stem] = CaseScore(**content)
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return found

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
        scores = self.read(version, [case.id for case in cases])
        had = {case_id: {*score.present, *score.left_out} for case_id, score in scores.items()}
        stale = [case for case in cases if had.get(case.id) != {*case.images, *case.left_out}]
        return sorted(stale, key=lambda case: case.label is not None)
