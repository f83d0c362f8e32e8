"""How much is computed at a time, and less of it where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.machine import is_out_of_memory

T = TypeVar("T")


@contextmanager
def memory_told() -> Iterator[None]:
    """Where nothing lighter can be tried: memory that runs out, as a sentence.

    Raises:
        TrainingError: out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "out of memory; lower training.batch or training.patch in task.yaml, or raise preprocess.spacing_mm "
            f"({error})"
        ) from None


@dataclass
class Load:
    """In how many parts a batch is taken, and the patch size (X, Y, Z), voxels."""

    parts: int
    patch: tuple[int, int, int]

    def lighter(self, spec: TaskSpec) -> bool:
        """More parts, then smaller patches; False if there is nothing left to give."""
        if self.parts < spec.training.batch:
            self.parts = min(spec.training.batch, self.parts * 2)
            return True
        divisor = spec.network.divisor
        # the longest side that can still be halved, to a multiple of the divisor and at least two of them
        for axis in sorted(range(3), key=lambda axis: -self.patch[axis]):
            side = max(2 * divisor[axis], self.patch[axis] // 2 // divisor[axis] * divisor[axis])
            if side < self.patch[axis]:
                patch = list(self.patch)
                patch[axis] = side
                self.patch = (patch[0], patch[1], patch[2])
                return True
        return False

    def __str__(self) -> str:
        return f"batches in {self.parts} parts, patches of {' x '.join(map(str, self.patch))}"

    def fitting(
        self, what: str, attempt: Callable[[], T], lighten: Callable[[], bool], note: Callable[[str], None]
    ) -> T:
        """What `attempt` returns; where it runs out of memory it is made again, with less, as often as `lighten` can.

        Raises:
            TrainingError: out of memory, and nothing left to give; `what` says where.
        """
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not lighten():
                    raise TrainingError(
                        f"{what}: out of memory with {self}; lower training.batch, training.patch or "
                        f"network.channels in task.yaml, or free memory ({error})"
                    ) from None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            note(f"out of memory: going on with {self}")
