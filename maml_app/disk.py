"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from maml_app.errors import SettingsError


def write_atomically(path: Path, write: Callable[[Path], None], replace: bool = True, mode: int = 0o666) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename; on failure nothing is left.

    Args:
        mode: who may read and write the file, less what the process' umask forbids.

    Raises:
        FileExistsError: `replace` is false and the file is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the full name is the ending: libraries tell the format by the extension
    part = path.with_name(f".part-{secrets.token_hex(8)}-{path.name}")
    try:
        part.touch(mode=mode, exist_ok=False)
        write(part)
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


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write UTF-8 text, whole or not at all; `mode` and errors as of `write_atomically`."""

    def fill(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, fill, mode=mode)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes to a file, whole or not at all; errors as of `write_atomically`."""

    def fill(part: Path) -> None:
        part.write_bytes(content)

    write_atomically(path, fill)


def private_folder(name: str) -> Path:
    """A folder in the system's temporary one that only this user can read: /tmp/maml-UID/NAME.

    Raises:
        SettingsError: someone else made it, or others may write to it.
    """
    root = Path(tempfile.gettempdir()) / f"maml-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError(
            f"{root}: expected a folder that is this user's alone (mode 700); remove it, or set TMPDIR to another place"
        )
    folder = root / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
