"""Notes about a case: what clients left, and to whom the server gave it."""

from __future__ import annotations

from collections.abc import Mapping


def merged(notes: Mapping[str, object], newer: Mapping[str, object]) -> dict[str, object]:
    """Notes with newer ones in their place; a note that holds several is merged as well, as `strategy` is."""
    found = dict(notes)
    for name, value in newer.items():
        before = found.get(name)
        found[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return found
