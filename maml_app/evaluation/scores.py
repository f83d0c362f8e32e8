"""Scores of labelled cases: Dice by case, subset of modalities and structure, and the means, intervals and differences.

A structure that is in neither truth nor answer has no score (None).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from maml_app.cases.case import subsets
from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.metrics import bootstrap_interval, mean
from maml_app.evaluation.quality import Expectation, fitted

Interval = tuple[float, float]
Promised = Mapping[str, Mapping[str, float]]  # subset name -> structure -> Dice that an answer promises itself
CaseDice = Mapping[str, Mapping[str, float | None]]  # subset name -> structure -> Dice


def number(value: float | None, digits: int = 3) -> str:
    """As people read a score; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def subset_name(subset: Sequence[str]) -> str:
    """How a subset of modalities is called in scores: "ct+pet"."""
    return "+".join(subset)


@dataclass(frozen=True)
class SubsetScore:
    """Means over the cases that have all modalities of a subset; `interval`: 95 % bootstrap of `mean` over cases."""

    cases: int
    dice: Mapping[str, float | None]
    mean: float | None
    interval: Interval | None

    def as_dict(self) -> dict[str, Any]:
        return {"cases": self.cases, **self.dice, "mean": self.mean, "interval": self.interval}


@dataclass(frozen=True)
class Difference:
    """A paired difference of mean Dice over the cases that both have, with its interval over cases."""

    cases: int
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class ScoredCase:
    """Dice of one case, and what its answers promised."""

    dice: CaseDice
    promised: Promised


@dataclass(frozen=True)
class Scores:
    """Dice of every case under every subset of the modalities that it has.

    Attributes:
        modalities: of the task, in its order.
        scored: names of what is scored: the task's regions, else its labels.
        cases: by case id.
        promised: by case id, where it is known.
    """

    modalities: tuple[str, ...]
    scored: tuple[str, ...]
    cases: Mapping[str, CaseDice]
    promised: Mapping[str, Promised] = field(default_factory=dict)

    @classmethod
    def of_cases(cls, spec: TaskSpec, found: Mapping[str, ScoredCase]) -> Scores:
        dice = {case_id: scored.dice for case_id, scored in found.items()}
        promised = {case_id: scored.promised for case_id, scored in found.items()}
        return cls(spec.modality_names, tuple(spec.scored), dice, promised)

    @classmethod
    def of(cls, spec: TaskSpec, cases: Mapping[str, CaseDice]) -> Scores:
        return cls(spec.modality_names, tuple(spec.scored), cases)

    @cached_property
    def subsets(self) -> dict[str, SubsetScore]:
        """By subset name, single modalities first; subsets that no case has are left out."""
        rows = {}
        for subset in map(subset_name, subsets(self.modalities)):
            having = [dice[subset] for dice in self.cases.values() if subset in dice]
            if having:
                by_name = {name: mean([dice[name] for dice in having]) for name in self.scored}
                interval = bootstrap_interval(list(self.case_means(subset).values()))
                rows[subset] = SubsetScore(len(having), by_name, mean(list(by_name.values())), interval)
        return rows

    @property
    def mean(self) -> float | None:
        """Mean over subsets."""
        return mean([row.mean for row in self.subsets.values()])

    @property
    def interval(self) -> Interval | None:
        """95 % bootstrap over cases, each by its mean over subsets."""
        return bootstrap_interval(list(self.case_means().values()))

    @property
    def full(self) -> float | None:
        """All modalities of the task together; None if no case has them all."""
        row = self.subsets.get(subset_name(self.modalities))
        return row.mean if row else None

    @property
    def expectation(self) -> Expectation | None:
        """What Dice answers like these deserve; None where too few cases tell."""
        pairs = {}
        for case_id, promised in self.promised.items():
            dice = self.cases[case_id]
            found = [
                (value, true)
                for subset, by_name in promised.items()
                for name, value in by_name.items()
                if (true := dice[subset][name]) is not None
            ]
            if found:
                pairs[case_id] = found
        return fitted(pairs)

    def all_of(self, case_id: str) -> str:
        """The subset of all modalities that a case has."""
        return subset_name([name for name in self.modalities if name in self.cases[case_id]])

    def case_means(self, subset: str | None = None) -> dict[str, float]:
        """Mean Dice of each case over what is scored: under one subset, or over all of its subsets if None."""
        means = {}
        for case_id, dice in self.cases.items():
            used = list(dice.values()) if subset is None else [dice[subset]] if subset in dice else []
            value = mean([mean(list(by_name.values())) for by_name in used])
            if value is not None:
                means[case_id] = value
        return means

    def minus(self, other: Scores, subset: str | None = None) -> Difference | None:
        """Paired difference over the cases in both, under one subset or over all; None if they share no case."""
        ours, theirs = self.case_means(subset), other.case_means(subset)
        differences = [ours[case_id] - theirs[case_id] for case_id in ours if case_id in theirs]
        if not differences:
            return None
        return Difference(len(differences), sum(differences) / len(differences), bootstrap_interval(differences))

    def compared(self, other: Scores) -> dict[str, Difference]:
        """`minus` under each subset that both have, and over all of them as "mean"."""
        found = {name or "mean": self.minus(other, name) for name in [*self.subsets, None]}
        return {name: difference for name, difference in found.items() if difference}

    def summary(self) -> dict[str, Any]:
        """Plain values without the single cases: what a model's notes hold."""
        rows = {name: row.as_dict() for name, row in self.subsets.items()}
        expectation = self.expectation
        told = {"expectation": expectation.as_dict()} if expectation else {}
        return {"subsets": rows, "mean": self.mean, "full": self.full, **told}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as report.json holds them."""
        return {**self.summary(), "interval": self.interval, "cases": self.cases}
