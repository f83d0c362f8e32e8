"""pydicom told not to judge values while a block runs: archives hold overlong and malformed ones, no matter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config

# what reading a value raises that breaks its VR, without validation too
BROKEN_VALUE = (ValueError, TypeError, NotImplementedError)

_lock = threading.Lock()
_inside = 0
_before = config.WARN


@contextmanager
def lenient() -> Iterator[None]:
    """Read without validation, and leave pydicom's settings as they were.

    The settings are one for all threads: the first one in changes them, the last one out restores them.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = config.settings.reading_validation_mode
            config.settings.reading_validation_mode = config.IGNORE
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                config.settings.reading_validation_mode = _before
