"""What tells one studies location from another: models and scores know cases by their ids only, and ids repeat.

A folder keeps a random id beside its labels, so that it stays itself when it is moved; where nothing can be written it
is its path. An archive is its address.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from pathlib import Path

from maml_app.disk import write_atomically
from maml_app.errors import StudiesError

FILE = "studies.json"


def folder_identity(label_root: Path, part: str = "", claim: bool = False) -> str:
    """The id that is kept in a label store, else one of its path.

    Args:
        part: which of several datalists that share a store.
        claim: write one if there is none and the folder can be written to.

    Raises:
        StudiesError: the id that is kept is damaged.
    """
    path = label_root / FILE
    if claim and not path.is_file():
        content = json.dumps({"id": uuid.uuid4().hex})
        with suppress(OSError):  # read-only, or claimed by another process in this very moment
            write_atomically(path, lambda new: _fill(new, content), replace=False)
    try:
        kept = str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (FileNotFoundError, NotADirectoryError):
        kept = f"at-{_hash(str(label_root.resolve()))}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudiesError(f"{path}: expected the id of these studies, got: {error!r}; restore the file") from None
    return f"{kept}/{part}" if part else kept


def _fill(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def archive_identity(url: str) -> str:
    """A hash of an archive's address."""
    return f"at-{_hash(url.rstrip('/'))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
