"""The newest proposals of each case, kept so that a save can tell how much of one a person changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from maml_app.cases.case import check_id
from maml_app.disk import write_text
from maml_app.errors import MamlError
from maml_app.imaging.files import read_label, write_label
from maml_app.imaging.volume import Volume

KEPT = 4  # of a case


@dataclass(frozen=True)
class KeptProposal:
    """A proposal that was given: by which model, when, and its label map's hash and file."""

    model: str
    at: datetime
    content: str
    path: Path

    def label(self) -> Volume | None:
        """The label map; None if it cannot be read any more."""
        try:
            return read_label(self.path)
        except MamlError:
            return None


class Proposals:
    """Proposals below a folder of this machine: `<root>/<case>/<content>.nii.gz`, and `.json` beside it."""

    def __init__(self, state: Path) -> None:
        self.root = state / "proposals"

    def keep(self, case: str, label: Volume, model: str) -> str:
        """Keep a proposal; returns the hash of its label map. The oldest go."""
        folder, content = self.root / check_id(case), label.content
        file = folder / f"{content}.nii.gz"
        try:
            if not file.is_file():
                write_label(file, label.voxels, label.affine)
            # last, and anew each time: it tells when it was given, and that the label map is whole
            write_text(folder / f"{content}.json", json.dumps({"model": model, "at": datetime.now(UTC).isoformat()}))
            for old in self._of(case)[:-KEPT]:
                old.path.unlink(missing_ok=True)
                old.path.with_name(f"{old.content}.json").unlink(missing_ok=True)
        except OSError:  # a proposal is worth no failed answer
            return content
        return content

    def newest(self, case: str, content: str = "", since: datetime | None = None) -> KeptProposal | None:
        """The newest proposal of a case, or the one of a hash; only later than `since`, if that is given."""
        found = [
            kept
            for kept in self._of(case)
            if (not content or kept.content == content) and (content or since is None or kept.at > since)
        ]
        return found[-1] if found else None

    def _of(self, case: str) -> list[KeptProposal]:
        found = []
        for path in (self.root / check_id(case)).glob("*.json"):
            try:
                told = json.loads(path.read_text(encoding="utf-8"))
                at = datetime.fromisoformat(told["at"])
                found.append(KeptProposal(str(told["model"]), at, path.stem, path.with_name(f"{path.stem}.nii.gz")))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return sorted(found, key=lambda kept: kept.at)
