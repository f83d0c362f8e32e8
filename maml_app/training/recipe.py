"""How one training runs: everything beside the task and its cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from maml_app.network.ensemble import SegmentationNetwork
from maml_app.training.progress import Progress, Report


def tell_nobody(progress: Progress) -> None:
    """The report of a training that nobody watches."""


def wait_for_nobody() -> float:
    """The wait of a training that has its devices to itself."""
    return 0.0


@dataclass(frozen=True)
class Recipe:
    """What a training starts from, where it runs, and whom it tells.

    Attributes:
        seed: of new weights, the order of cases, and augmentation.
        devices: none for the GPU if there is one, else the CPU; two or more: one process is started for each.
        start: a network to go on from (warm start), else new weights.
        inherited: case id -> patient, of what `start` learned from.
        prepared: where prepared cases are kept for the next time, at most `prepared_gb`; a temporary folder if None.
        weights: case id -> how many times an epoch it is drawn; once where it is not named.
        parts: in how many parts a batch is taken from the start.
        report: called with the progress, a few times a minute at least.
        wait: called before each step, to let others go first; the seconds waited. It must be picklable for several
            processes.
    """

    seed: int = 0
    devices: tuple[torch.device, ...] = ()
    start: SegmentationNetwork | None = None
    inherited: Mapping[str, str] = field(default_factory=dict)
    prepared: Path | None = None
    prepared_gb: float = 20.0
    weights: Mapping[str, int] = field(default_factory=dict)
    parts: int = 1
    report: Report = tell_nobody
    wait: Callable[[], float] = wait_for_nobody

    @property
    def device(self) -> torch.device:
        """The first device."""
        if self.devices:
            return self.devices[0]
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
