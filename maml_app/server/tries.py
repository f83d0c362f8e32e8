"""How often passwords may be tried: by one client for one name, by one client, and for one name from everywhere.

Others' guesses must not keep a user out: where a name was right before, only what is tried there counts.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from fastapi import HTTPException

WINDOW_S = 60.0
# so many wrong ones in that time; the first is the least, so that a name does not cost its neighbours theirs
BY_CLIENT_FOR_NAME, BY_CLIENT, FOR_NAME = 10, 50, 100


@dataclass(frozen=True, eq=False)
class Try:
    """One password that is tried, or was wrong."""

    when: float
    client: str
    name: str


class Tries:
    """The tries of the last minute. One under way counts as wrong until it is right."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong: list[Try] = []  # oldest first
        self._known: set[tuple[str, str]] = set()

    def begin(self, client: str, name: str) -> Try:
        """Count a try.

        Raises:
            HTTPException: 429, there were too many; it says how long to wait.
        """
        now = time.monotonic()
        with self._lock:
            self._wrong = [one for one in self._wrong if now - one.when < WINDOW_S]
            here = [one for one in self._wrong if one.client == client]
            bounds = [(BY_CLIENT, here), (BY_CLIENT_FOR_NAME, [one for one in here if one.name == name])]
            if (client, name) not in self._known:
                bounds.append((FOR_NAME, [one for one in self._wrong if one.name == name]))
            waits = [WINDOW_S - (now - found[-bound].when) for bound, found in bounds if len(found) >= bound]
            if waits:
                wait = round(max(waits)) + 1
                detail = f"Too many passwords were tried; wait {wait} s."
                raise HTTPException(429, detail, {"Retry-After": str(wait)})
            begun = Try(now, client, name)
            self._wrong.append(begun)
        return begun

    def right(self, begun: Try) -> None:
        """Take a try back, as its password was right."""
        with self._lock:
            self._wrong = [one for one in self._wrong if one is not begun]
            self._known.add((begun.client, begun.name))
