"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None], replace: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename; on failure nothing is left.

    Raises:
        FileExistsError: `replace` is false and the file is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the full name is the ending: libraries tell the format by the extension
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=f"-{path.name}", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        part.chmod(0o644)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            os.link(part, path)  # fails if the name is taken, unlike a rename
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""

    def fill(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, fill)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes to a file, whole or not at all; errors as of `write_atomically`."""

    def fill(part: Path) -> None:
        part.write_bytes(content)

    write_atomically(path, fill)
