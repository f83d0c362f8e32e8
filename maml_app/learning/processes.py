"""Other processes on this machine: whether one still runs, and letting inference go first."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_WAIT_S = 20.0  # so long at most training stands aside before a step, however many ask


def is_running(process: int) -> bool:
    """Whether a process of this id exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Turns:
    """A lock file by which inference goes first: training waits before each step while an inference runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Hold training back meanwhile. Several inferences may run at a time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a")
        except OSError:  # a disk that cannot be written must not keep anyone from a segmentation
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield  # closing the file lets go of the lock, as does the end of the process

    def wait(self) -> float:
        """Wait until no inference runs; the seconds waited."""
        began = time.monotonic()
        if not self.path.exists():
            return 0.0
        with self.path.open("a") as file:
            while time.monotonic() - began < LONGEST_WAIT_S:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.01)
        return time.monotonic() - began
