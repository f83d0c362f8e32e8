"""Files and folders that are there whole or not at all, and what killed processes leave behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maml_app.errors import SettingsError

FORSAKEN_S = 60.0  # what nobody holds yet may have been made this very moment


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
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    fcntl.flock(handle, fcntl.LOCK_SH)  # see sweep
    try:
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
        os.close(handle)


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


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder` for the time of a `with` block; move out of it what is to stay.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    work = new.with_name(f".work-{new.name.removeprefix('.new-')}")
    try:
        with (new / ".held").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_SH)
            new.rename(work)  # from here on nobody sees it without its lock
            yield work
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what `workspace` and `write_atomically` of killed processes left: no process, on any host, holds it.

    A lock ends with its process, unlike the number of a process, which another one may have by now.
    """
    for path in [*folder.glob(".work-*"), *folder.glob(".new-*"), *folder.glob(".part-*")]:
        with suppress(OSError):  # gone meanwhile, or of somebody else
            settled = path.name.startswith(".work-") or time.time() - path.stat().st_mtime > FORSAKEN_S
            if settled and not _is_held(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_held(path: Path) -> bool:
    lock = path / ".held" if path.is_dir() else path
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
