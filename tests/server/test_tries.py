"""Who guesses passwords is slowed down, and nobody else."""

from __future__ import annotations

import time

import pytest
from fastapi import HTTPException

from maml_app.server.tries import Tries

ANNA = [("here", "anna")]
NAMES = [("here", f"user{number}") for number in range(50)]
EVERYWHERE = [(f"198.51.100.{number}", "anna") for number in range(100)]


@pytest.mark.parametrize(
    ("tried", "then", "held_up"),
    [
        (ANNA * 9, ("here", "anna"), False),
        (ANNA * 10, ("here", "anna"), True),
        (ANNA * 10, ("here", "bob"), False),
        (ANNA * 10, ("there", "anna"), False),
        (NAMES[1:], ("here", "bob"), False),
        (NAMES, ("here", "bob"), True),
        (NAMES, ("there", "user1"), False),
        (EVERYWHERE[1:], ("there", "anna"), False),
        (EVERYWHERE, ("there", "anna"), True),
        (EVERYWHERE, ("at home", "anna"), False),
    ],
)
def test_a_guesser_is_held_up_and_nobody_else(
    tried: list[tuple[str, str]], then: tuple[str, str], held_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = Tries()
    for _ in range(100):  # what is right does not count
        tries.right(tries.begin("at home", "anna"))
    for one in tried:
        tries.begin(*one)
    if held_up:
        with pytest.raises(HTTPException, match=r"Too many passwords were tried; wait \d+ s") as refused:
            tries.begin(*then)
        wait = int((refused.value.headers or {})["Retry-After"])
        later = time.monotonic() + wait
        monkeypatch.setattr("time.monotonic", lambda: later)
    tries.begin(*then)
