"""What was computed of cases, kept while its model is: a second look at a case costs resampling alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch

from maml_app.cases.case import Case
from maml_app.network.window import Opinions
from maml_app.versions.shelf import Seen, Shelf

LIMIT_BYTES = 1 << 30


class Kept:
    """The cases seen last, as many as there is room for, and on a shelf those before. Threads may share it."""

    def __init__(self, limit: int = LIMIT_BYTES, shelf: Shelf | None = None) -> None:
        self._limit = limit
        self._shelf = shelf
        self._seen: OrderedDict[Hashable, Seen] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: Hashable, look: Callable[[], Seen]) -> Seen:
        """What is kept under a key, or what `look` sees."""
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
                return self._seen[key]
        seen = self._shelf.read(key) if self._shelf else None
        if seen is None:
            seen = look()
            if self._shelf:
                self._shelf.put(key, seen)
        with self._lock:
            self._seen[key] = seen
            while self._seen and sum(kept.size for kept in self._seen.values()) > self._limit:
                self._seen.popitem(last=False)
        return seen


def content_key(case: Case, names: Sequence[str]) -> Hashable:
    """What tells these images of a case from what they were before: place, channel, size and time of their files."""
    parts = []
    for name in names:
        ref = case.images[name]
        file = ref.found()
        stat = file.stat() if file else None
        parts.append((name, str(ref.path), ref.channel, stat and (stat.st_size, stat.st_mtime_ns)))
    return tuple(parts)


def half(opinions: Opinions) -> Opinions:
    """The same with the experts in half precision; the answer stays as it is."""
    experts = {index: said.to(torch.float16) for index, said in opinions.experts.items()}
    return Opinions(opinions.fused, experts, opinions.features)
