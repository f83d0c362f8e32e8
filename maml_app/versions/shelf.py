"""What a model saw of cases, in files: known after a restart, and where memory has room for a few cases only."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from maml_app.disk import sweep, write_atomically
from maml_app.imaging.preprocess import Prepared
from maml_app.imaging.volume import Grid
from maml_app.network.window import Opinions

logger = logging.getLogger(__name__)
EXPERT = "expert."


@dataclass(frozen=True, eq=False)
class Seen:
    """A case as a model sees it: the prepared images, and what the ensemble and its experts say of them.

    The experts' opinions are in half precision.
    """

    prepared: Prepared
    opinions: Opinions

    @property
    def size(self) -> int:
        """Bytes."""
        tensors = (self.prepared.images, self.opinions.fused, *self.opinions.experts.values())
        return sum(tensor.element_size() * tensor.numel() for tensor in tensors)


@dataclass(frozen=True, eq=False)
class Shelf:
    """A folder with a file a case; of all beside it together the least recently used go first.

    They hold images of patients, as prepared cases do: only this user can read them.

    Attributes:
        folder: of one model and way to run it; others of the same `room` stand beside it.
        room: bytes for all of them.
    """

    folder: Path
    room: float
    _writer: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="shelf"), repr=False
    )

    def read(self, key: Hashable) -> Seen | None:
        """What was put there, to the last bit; None if it was not, or cannot be read any more."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                told = json.loads((file.metadata() or {})["case"])
            os.utime(path)
            grid = Grid(tuple(told["shape"]), np.array(told["affine"]))
            left_out = dict(told["left_out"])
            prepared = Prepared(tensors["images"], tensors["presence"], grid, tuple(told["used"]), left_out)
            experts = {int(name.removeprefix(EXPERT)): tensors[name] for name in tensors if name.startswith(EXPERT)}
            return Seen(prepared, Opinions(tensors["fused"], experts, tensors["features"]))
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: what was kept of a case cannot be read and is worked out anew: %s", path, error)
            return None

    def put(self, key: Hashable, seen: Seen) -> None:
        """Write it in the background; a full disk costs a later look its time, and nothing else."""
        if seen.size <= self.room:
            self._writer.submit(self._write, key, seen)

    def settle(self) -> None:
        """Wait until all is written."""
        self._writer.submit(lambda: None).result()

    def _path(self, key: Hashable) -> Path:
        return self.folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.safetensors"

    def _write(self, key: Hashable, seen: Seen) -> None:
        prepared, opinions = seen.prepared, seen.opinions
        tensors = {"images": prepared.images, "presence": prepared.presence}
        tensors |= {"fused": opinions.fused, "features": opinions.features}
        tensors |= {f"{EXPERT}{index}": said for index, said in opinions.experts.items()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        grid = {"shape": prepared.grid.shape, "affine": prepared.grid.affine.tolist()}
        told = json.dumps({**grid, "used": prepared.used, "left_out": dict(prepared.left_out)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            write_atomically(self._path(key), lambda part: save_file(tensors, part, {"case": told}), mode=0o600)
            self._make_room()
        except (OSError, SafetensorError) as error:
            logger.warning("%s: what was seen of a case could not be kept: %s", self.folder, error)

    def _make_room(self) -> None:
        files = []
        for path in self.folder.parent.glob("*/*.safetensors"):
            with suppress(FileNotFoundError):  # another process made room
                found = path.stat()
                files.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.room:
                return
            path.unlink(missing_ok=True)
            total -= size
