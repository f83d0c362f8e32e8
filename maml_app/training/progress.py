"""What people are told while a training runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from maml_app.evaluation.scores import SubsetScore, number

PAUSE_S = 5.0  # between two lines about the steps


@dataclass(frozen=True)
class Progress:
    """Where training stands: `stage` is prepare, train, validate …; `losses` the weighted terms, averaged lately.

    `dice`: the validation cases' scores in the course of a run, by subset.
    """

    stage: str
    done: int
    total: int
    losses: Mapping[str, float]
    seconds_left: float | None = None
    epoch: int | None = None
    note: str = ""
    dice: Mapping[str, SubsetScore] | None = None

    def __str__(self) -> str:
        if self.note:
            return self.note
        if self.dice:
            names = list(next(iter(self.dice.values())).dice)
            scores = [f"{subset} {_numbers(row.dice.values())}" for subset, row in self.dice.items()]
            return f"validation Dice after {self.done} steps ({', '.join(names)}): {'; '.join(scores)}"
        left = "" if self.seconds_left is None else f", {self.seconds_left / 60:.1f} min left"
        terms = ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items() if name != "total")
        loss = f": loss {self.losses['total']:.3f}" if self.losses else ""
        loss += f" ({terms})" if terms else ""
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        return f"{self.stage} {self.done}/{self.total}{epoch}{loss}{left}"


def _numbers(values: Iterable[float | None]) -> str:
    return " ".join(map(number, values))


Report = Callable[[Progress], None]


def counted(stage: str, total: int, report: Report) -> Callable[[str], None]:
    """A function that reports one more case of a stage each time it is called with a case's id."""
    done: list[str] = []

    def tick(case_id: str) -> None:
        done.append(case_id)
        report(Progress(stage, len(done), total, {}))

    return tick


class Meter:
    """Averages the loss terms of a stage's steps, and reports them now and then with the time that is left."""

    def __init__(self, report: Report, steps: int, steps_an_epoch: float, stage: str = "train") -> None:
        self.stage = stage
        self.report = report
        self.steps = steps
        self.steps_an_epoch = steps_an_epoch
        self.waited_s = 0.0
        self._recent: dict[str, list[float]] = {}
        self._began = self._last = time.monotonic()

    def step(self, done: int, terms: Mapping[str, float]) -> None:
        """One more step is done, `done` in all, with these loss terms."""
        for name, value in terms.items():
            self._recent.setdefault(name, []).append(value)
        now = time.monotonic()
        if now - self._last > PAUSE_S or done in (1, self.steps):
            left_s = (now - self._began) / done * (self.steps - done)
            means = {name: sum(values) / len(values) for name, values in self._recent.items()}
            epoch = int((done - 1) / self.steps_an_epoch) + 1
            self.report(Progress(self.stage, done, self.steps, means, left_s, epoch))
            self._recent, self._last = {}, now

    def checked(self, done: int, dice: Mapping[str, SubsetScore]) -> None:
        self.report(Progress("check", done, self.steps, {}, dice=dice))

    def note(self, text: str) -> None:
        self.report(Progress(self.stage, 0, self.steps, {}, note=text))

    def end(self) -> None:
        if self.waited_s > 1:
            self.note(f"stood aside for {self.waited_s:.0f} s of inference")
