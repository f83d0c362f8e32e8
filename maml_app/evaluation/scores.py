"""Scores of labelled cases: Dice by case, subset of modalities and structure, and the means, intervals and differences.

A structure that is in neither truth nor answer has no score (None).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from maml_app.cases.case import subsets
from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.metrics import estimate, mean
from maml_app.evaluation.quality import Expectation, fitted
from maml_app.imaging.volume import Array

Interval = tuple[float, float]
Promised = Mapping[str, Mapping[str, float]]  # subset name -> structure -> Dice that an answer promises itself
CaseDice = Mapping[str, Mapping[str, float | None]]  # subset name -> structure -> Dice


def number(value: float | None, digits: int = 3) -> str:
    """As people read a score; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def subset_name(subset: Sequence[str]) -> str:
    """How a subset of modalities is called in scores: "ct+pet"."""
    return "+".join(subset)


def paired(ours: float | None, theirs: float | None) -> tuple[float, float]:
    """Dice of two models of one structure of a case, to be compared.

    What is in neither truth nor answer counts as 1: finding something there is worse than finding nothing.
    """
    return 1.0 if ours is None else ours, 1.0 if theirs is None else theirs


@dataclass(frozen=True)
class SubsetScore:
    """Means over the cases that have all modalities of a subset; `interval`: 95 % bootstrap of `mean` over patients."""

    cases: int
    dice: Mapping[str, float | None]
    mean: float | None
    interval: Interval | None

    def as_dict(self) -> dict[str, Any]:
        return {"cases": self.cases, **self.dice, "mean": self.mean, "interval": self.interval}


@dataclass(frozen=True)
class Difference:
    """A paired difference of mean Dice over the cases that both have, with its interval over patients."""

    cases: int
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class ScoredCase:
    """Dice of one case, what its answers promised, and whose case it is."""

    dice: CaseDice
    promised: Promised
    patient: str


@dataclass(frozen=True)
class Scores:
    """Dice of every case under every subset of the modalities that it has.

    Attributes:
        modalities: of the task, in its order.
        scored: names of what is scored: the task's regions, else its labels.
        cases: by case id.
        promised: by case id, where it is known.
        patients: by case id, where it is known; else each case is a patient of its own.
    """

    modalities: tuple[str, ...]
    scored: tuple[str, ...]
    cases: Mapping[str, CaseDice]
    promised: Mapping[str, Promised] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_cases(cls, spec: TaskSpec, found: Mapping[str, ScoredCase]) -> Scores:
        dice = {case_id: scored.dice for case_id, scored in found.items()}
        promised = {case_id: scored.promised for case_id, scored in found.items()}
        patients = {case_id: scored.patient for case_id, scored in found.items()}
        return cls(spec.modality_names, tuple(spec.scored), dice, promised, patients)

    @classmethod
    def of(cls, spec: TaskSpec, cases: Mapping[str, CaseDice]) -> Scores:
        return cls(spec.modality_names, tuple(spec.scored), cases)

    @cached_property
    def subsets(self) -> dict[str, SubsetScore]:
        """By subset name, single modalities first; subsets that no case has are left out."""
        rows = {}
        for subset in map(subset_name, subsets(self.modalities)):
            having = {case_id: dice for case_id, dice in self.cases.items() if subset in dice}
            if having:
                by_name = {name: mean([dice[subset][name] for dice in having.values()]) for name in self.scored}
                rows[subset] = SubsetScore(len(having), by_name, *self._estimate(having, [subset]))
        return rows

    @property
    def mean(self) -> float | None:
        """Mean over subsets."""
        return self._overall[0]

    @property
    def interval(self) -> Interval | None:
        """95 % bootstrap of `mean` over patients."""
        return self._overall[1]

    @cached_property
    def _overall(self) -> tuple[float | None, Interval | None]:
        return self._estimate(self.cases, self._names())

    def _names(self, subset: str | None = None) -> list[str]:
        """Of one subset, or of all."""
        return [subset] if subset else list(map(subset_name, subsets(self.modalities)))

    def _estimate(self, cases: Mapping[str, CaseDice], names: Sequence[str]) -> tuple[float | None, Interval | None]:
        return estimate(self._table(cases, names), [self.patients.get(case_id, case_id) for case_id in cases])

    def _table(self, cases: Mapping[str, CaseDice], names: Sequence[str]) -> Array:
        """Dice (C, S, N) of cases, of the subsets of these names, and of what is scored; nan for what has none."""
        rows = [
            [[dice.get(subset, {}).get(name) for name in self.scored] for subset in names] for dice in cases.values()
        ]
        return np.array(rows, float).reshape(len(cases), len(names), len(self.scored))

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
        """Paired difference over the cases in both, under one subset or the mean over all; None if they share no case.

        What neither model finds, and is not there, tells nothing; what one of them finds there counts as `paired` says.
        """
        gaps: dict[str, CaseDice] = {}
        for case_id in self.cases:
            ours, theirs = self.cases[case_id], other.cases.get(case_id, {})
            gap = {
                name: {scored: _gap(ours[name][scored], theirs[name][scored]) for scored in self.scored}
                for name in self._names(subset)
                if name in ours and name in theirs
            }
            if any(value is not None for by_name in gap.values() for value in by_name.values()):
                gaps[case_id] = gap
        difference, interval = self._estimate(gaps, self._names(subset))
        return None if difference is None else Difference(len(gaps), difference, interval)

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


def _gap(ours: float | None, theirs: float | None) -> float | None:
    if ours is None and theirs is None:
        return None
    one, other = paired(ours, theirs)
    return one - other
