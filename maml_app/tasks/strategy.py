"""Which case next: strategies by case, over those without a final label."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy


class _ByCase(Strategy):
    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        waiting = sorted(datastore.get_unlabeled_images())
        if not waiting:
            return None  # MONAI Label answers {}, which clients take as "all done"
        return {"id": self.pick(waiting), "waiting": len(waiting)}

    def pick(self, waiting: Sequence[str]) -> str:
        raise AssertionError("each strategy picks in its own way")


class RandomCase(_ByCase):
    """Any of the unlabelled cases."""

    def __init__(self) -> None:
        super().__init__("A random case without a final label")

    def pick(self, waiting: Sequence[str]) -> str:
        return random.choice(waiting)


class FirstCase(_ByCase):
    """The first of the unlabelled cases, by id."""

    def __init__(self) -> None:
        super().__init__("The first case without a final label, by id")

    def pick(self, waiting: Sequence[str]) -> str:
        return waiting[0]
