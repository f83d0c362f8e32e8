"""Unfinished drawings: one a person and case, kept on the server's machine until it is saved as a label or dropped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from maml_app.cases.case import check_id
from maml_app.cases.history import Written, now
from maml_app.disk import write_text
from maml_app.errors import MamlError, StudiesError
from maml_app.imaging.files import read_label, write_label
from maml_app.imaging.volume import Volume


class Draft(Written):
    """What is known of an unfinished drawing: whose, since when, on which image, and from what it started."""

    author: str
    image: str
    saved: datetime = datetime.fromtimestamp(0, UTC)
    parent: str = ""
    proposal: str = ""
    file: str = ""


@dataclass(frozen=True)
class Drafts:
    """Drafts below a folder of this machine: `<state>/drafts/<case>/<author>.json`, and a label map beside it."""

    state: Path

    def _record(self, case: str, author: str) -> Path:
        # names of users may hold what a file's name may not
        name = hashlib.sha256(author.encode()).hexdigest()[:16]
        return self.state / "drafts" / check_id(case) / f"{name}.json"

    def keep(self, case: str, label: Volume, draft: Draft) -> Draft:
        """Keep a drawing in place of the one before it.

        Raises:
            StudiesError: it cannot be written; the one before stays.
        """
        record = self._record(case, draft.author)
        before = self.of(case, draft.author)
        name = f"{record.stem}-{label.content}.nii.gz"
        draft = draft.model_copy(update={"saved": now(), "file": name})
        try:
            write_label(record.with_name(name), label.voxels, label.affine)
            write_text(record, draft.model_dump_json())  # from here on it is the draft
            if before and before.file != name:
                record.with_name(before.file).unlink(missing_ok=True)
        except OSError as error:
            raise StudiesError(f"{record.parent}: the draft could not be kept ({error})") from None
        return draft

    def of(self, case: str, author: str) -> Draft | None:
        """A person's draft of a case; None if there is none."""
        try:
            draft = Draft.model_validate_json(self._record(case, author).read_bytes())
        except (OSError, ValidationError):
            return None
        return draft if draft.author == author and "/" not in draft.file else None

    def label(self, case: str, draft: Draft) -> Volume | None:
        """The drawing itself; None if it cannot be read any more."""
        try:
            return read_label(self._record(case, draft.author).with_name(draft.file))
        except MamlError:
            return None

    def drop(self, case: str, author: str) -> None:
        """Forget a draft: it was saved as a label, or is not wanted.

        Raises:
            StudiesError: it cannot be removed.
        """
        record, draft = self._record(case, author), self.of(case, author)
        try:
            record.unlink(missing_ok=True)
            if draft:
                record.with_name(draft.file).unlink(missing_ok=True)
        except OSError as error:
            raise StudiesError(f"{record.parent}: the draft could not be removed ({error})") from None
