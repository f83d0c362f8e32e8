"""Temporary files: in a folder that only this user can read, one for each request, removed with it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, HTTPException

from maml_app.disk import private_folder
from maml_app.machine import is_running

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")


def scratch_folder() -> Path:
    """This process' folder for temporary files."""
    own = private_folder("server") / str(os.getpid())
    own.mkdir(mode=0o700, exist_ok=True)
    return own


def remove_left_behind() -> None:
    """Remove what servers that were killed left."""
    for old in private_folder("server").iterdir():
        if not old.name.isdecimal() or not is_running(int(old.name)) or int(old.name) == os.getpid():
            shutil.rmtree(old, ignore_errors=True)


def _for_request() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="request-", dir=scratch_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Scratch = Annotated[Path, Depends(_for_request)]


def extension_of(name: str | None) -> str:
    """The extension of a file that a client names; nothing else of the name is used.

    Raises:
        HTTPException: 415 it is none that is read here.
    """
    lower = (name or "").lower()
    for extension in EXTENSIONS:
        if lower.endswith(extension):
            return extension
    raise HTTPException(415, f"expected a file named *.nii, *.nii.gz or *.nrrd, got {lower[-20:]!r}")


def keep(sent: BinaryIO | Any, folder: Path, extension: str, name: str = "sent") -> Path:
    """Write what was sent to a file in the folder."""
    path = folder / f"{name}{extension}"
    with path.open("xb") as file:
        shutil.copyfileobj(sent, file)
    return path
