"""Waiting for what other processes do: until it is so, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

EVERY_S = 0.1  # those that are asked have work of their own


def until(true: Callable[[], Found | None], what: str, limit_s: float = 120) -> Found:
    """What is asked for again and again until it is true; an AssertionError says `what` did not come by then."""
    end = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < end, f"{what} did not come within {limit_s:.0f} s"
        time.sleep(EVERY_S)
    return found
