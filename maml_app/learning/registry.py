"""Model versions on disk: each in a folder that is complete or not there, and one pointer to the served one.

<root>/v0001/model.safetensors   weights, and what they are for
<root>/v0001/report.json         validation, cases and label versions seen
<root>/served                    the name of the served version
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from maml_app.errors import ModelError
from maml_app.imaging.files import write_atomically, write_text
from maml_app.network.checkpoint import Checkpoint, save_checkpoint
from maml_app.network.ensemble import SegmentationNetwork

VERSION = re.compile(r"v\d{4,}")


def store_model(path: Path, network: SegmentationNetwork, checkpoint: Checkpoint) -> None:
    """Write a model file at `path` atomically, readable at once or not there.

    Raises:
        ModelError: it cannot be written, as when the disk is full; nothing is left.
    """
    try:
        write_atomically(path, lambda part: save_checkpoint(part, network, checkpoint))
    except OSError as error:
        raise ModelError(f"{path}: the model could not be written, nothing was left behind ({error})") from None


class ModelRegistry:
    """The versions of one task's model. Any number of processes may read; one publishes at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self) -> list[str]:
        """Names of complete versions, oldest first."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name
            for path in self.root.iterdir()
            if VERSION.fullmatch(path.name) and (path / "model.safetensors").is_file()
        )

    def served(self) -> str | None:
        """The version that answers now; None before the first is published."""
        try:
            name = (self.root / "served").read_text(encoding="utf-8").strip()
        except OSError:
            return None
        return name if name in self.versions() else None

    def path(self, version: str) -> Path:
        return self.root / version / "model.safetensors"

    def report(self, version: str) -> dict[str, Any]:
        """What was noted when the version was published; empty if nothing can be read."""
        try:
            content = json.loads((self.root / version / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def publish(self, network: SegmentationNetwork, checkpoint: Checkpoint, report: dict[str, Any]) -> str:
        """Store a new version and serve it; a reader sees the old or the new one, never a part. Returns its name.

        Raises:
            ModelError: the disk is full or cannot be written; the served version stays.
        """
        part: Path | None = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.root))
            store_model(part / "model.safetensors", network, checkpoint)
            write_text(part / "report.json", json.dumps(report, indent=1))
            part.chmod(0o755)
            number = max((int(name[1:]) for name in self.versions()), default=0) + 1
            version = f"v{number:04d}"
            os.rename(part, self.root / version)
            write_text(self.root / "served", version)
        except OSError as error:
            raise ModelError(f"{self.root}: the model could not be published, the served one stays ({error})") from None
        finally:
            if part is not None and part.exists():
                shutil.rmtree(part, ignore_errors=True)
        return version
