"""Waiting for what other processes do: until it is so, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

LIMIT_S = 180.0  # what has not come by then, on the slowest machine, does not come
EVERY_S = 0.1  # those that are asked have work of their own


def until(true: Callable[[], Found | None], what: str) -> Found:
    """What is asked for again and again until it is true; an AssertionError says `what` did not come."""
    end = time.monotonic() + LIMIT_S
    while not (found := true()):
        assert time.monotonic() < end, f"{what} did not come within {LIMIT_S:.0f} s"
        time.sleep(EVERY_S)
    return found
