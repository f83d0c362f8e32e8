"""What was fetched from an archive, kept on disk: only complete files, least recently used ones go first.

<cache>/headers-4/<uid>-<hash>.json  what the headers of a series or SEG tell
<cache>/images/<uid>.nii      a series as a volume, and <uid>.json: its slices
<cache>/labels/<uid>.nii.gz   a SEG as a label map
<cache>/notes/<case>.json     notes that clients left; never dropped
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maml_app.disk import write_text
from maml_app.errors import StudiesError

logger = logging.getLogger(__name__)

KEPT_S = 3600  # a file used within the last hour may be being read


def cache_folder(url: str, asked: str = "") -> Path:
    """Where an archive's cache lies: `asked`, else ~/.cache/maml_app; a folder for each address."""
    home = Path(asked or Path.home() / ".cache" / "maml_app")
    return home / hashlib.sha256(url.encode()).hexdigest()[:12]


class Cache:
    """A folder of files that can be fetched again, kept below `limit_gb`."""

    def __init__(self, folder: Path, limit_gb: float = 20.0) -> None:
        self.folder = folder
        self.limit_bytes = int(limit_gb * 1e9)

    def read_json(self, name: str) -> Any:
        """A kept JSON file's content; None if there is none or it is damaged."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, content: Any) -> None:
        try:
            write_text(self.folder / name, json.dumps(content, indent=1, default=str))
        except OSError as error:
            raise StudiesError(f"{self.folder / name}: could not be written ({error})") from None

    def file(self, name: str, make: Callable[[Path], None]) -> Path:
        """A kept file, made by `make` (which writes it atomically) if it is not there."""
        path = self.folder / name
        if path.is_file():
            os.utime(path)
            return path
        try:
            make(path)
        except OSError as error:
            raise StudiesError(f"{path}: could not be written ({error}); is the disk full?") from None
        self._drop_old(path)
        return path

    def _drop_old(self, new: Path) -> None:
        files = []
        for path in [*self.folder.glob("images/*.nii"), *self.folder.glob("labels/*.nii.gz")]:
            try:
                state = path.stat()
            except OSError:
                continue  # dropped by another process
            files.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if total <= self.limit_bytes or path == new or time.time() - used < KEPT_S:
                break
            path.unlink(missing_ok=True)
            total -= size
        if total > self.limit_bytes:
            held, limit = total / 1e9, self.limit_bytes / 1e9
            logger.warning("%s holds %.1f GB, all in use, above its limit of %.1f GB", self.folder, held, limit)
        for path in self.folder.glob("*/.part-*"):  # what a killed process left
            try:
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
            except OSError:
                continue
