"""How far a campaign is: what is labelled and reviewed, by whom, what waits for a decision, what was done lately."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maml_app.cases.case import FINAL, Case
from maml_app.cases.history import Recorded, State
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.labelling.review import Reading, agreement, readings


@dataclass(frozen=True)
class Overview:
    """Counts of cases, and the labels that someone should look at.

    Attributes:
        reviewed: cases whose label was approved, or came with the images.
        to_review: labels that wait for a reviewer, where the task asks for it, those of cases on which the model
            expects the worst of itself first; `disagreed`: cases that two have read.
        contested: labels that wait for a choice; `newest`: case id -> the label that counts now.
        people: how many labels each author saved.
        recent: the newest labels of people, newest first.
        minutes, changed_ml: medians over labels that started from a proposal; None without any.
    """

    cases: int
    labelled: int
    reviewed: int
    to_review: list[Recorded]
    disagreed: list[str]
    contested: list[Recorded]
    newest: dict[str, str]
    people: dict[str, int]
    recent: list[Recorded]
    minutes: float | None
    changed_ml: float | None


def overview(
    cases: Sequence[Case],
    histories: Mapping[str, Sequence[Recorded]],
    spec: TaskSpec,
    recent: int = 20,
    expected: Mapping[str, float] | None = None,
) -> Overview:
    """How the cases stand.

    Args:
        expected: case id -> Dice that the served model expects of its own answer.
    """
    dice = expected or {}
    ours = {case.id for case in cases}
    labels = [found for case, of_case in histories.items() if case in ours for found in of_case]
    people = [found for found in labels if found.entry.tag == FINAL]
    labelled = [case for case in cases if case.label is not None]
    settled = [case for case in labelled if case.label and not case.label.version]
    reviewed = [case for case in labelled if case.label and case.label.state == State.REVIEWED] + settled
    newest = {case.id: case.label.id for case in labelled if case.label}
    waiting = [
        found
        for found in people
        if spec.review.required
        and found.state == State.FINAL
        and (spec.review.readings > 1 or newest.get(found.entry.case) == found.entry.label)
    ]
    proposed = [found.entry for found in people if found.entry.changes]
    seconds = [entry.seconds for entry in proposed if entry.seconds is not None]
    changed = [sum(change.ml for change in entry.changes.values()) for entry in proposed]
    return Overview(
        len(cases),
        len(labelled),
        len(reviewed),
        sorted(waiting, key=lambda found: dice.get(found.entry.case, 1.0)),
        [case for case, found in histories.items() if spec.review.readings > 1 and len(readings(found)) > 1],
        [found for found in people if found.state == State.CONTESTED],
        newest,
        dict(Counter(found.entry.author or "someone" for found in people).most_common()),
        sorted(people, key=lambda found: found.entry.saved, reverse=True)[:recent],
        round(statistics.median(seconds) / 60, 1) if seconds else None,
        round(statistics.median(changed), 2) if changed else None,
    )


@dataclass(frozen=True)
class Month:
    """The labels of a month that started from a proposal, in medians: does the model save work?"""

    month: str
    labels: int
    minutes: float | None
    changed_ml: float
    dice: float | None
    added_path_mm: float


def months(histories: Mapping[str, Sequence[Recorded]]) -> list[Month]:
    """By month, oldest first."""
    found: dict[str, list[Recorded]] = {}
    for of_case in histories.values():
        for label in of_case:
            if label.entry.changes and label.entry.tag == FINAL:
                found.setdefault(f"{label.entry.saved:%Y-%m}", []).append(label)
    rows = []
    for month, labels in sorted(found.items()):
        entries = [label.entry for label in labels]
        every = [list(entry.changes.values()) for entry in entries]
        dice = [change.dice for changes in every for change in changes if change.dice is not None]
        seconds = [entry.seconds for entry in entries if entry.seconds is not None]
        rows.append(
            Month(
                month,
                len(entries),
                round(statistics.median(seconds) / 60, 2) if seconds else None,
                round(statistics.median(sum(change.ml for change in changes) for changes in every), 3),
                round(statistics.median(dice), 3) if dice else None,
                round(statistics.median(sum(change.added_path_mm for change in changes) for changes in every), 1),
            )
        )
    return rows


def agreements(source: CaseSource, histories: Mapping[str, Sequence[Recorded]], spec: TaskSpec) -> list[Reading]:
    """How readers agree, of every case that two have read."""
    read_twice = [case for case, found in histories.items() if len(readings(found)) > 1]
    return [found for case in read_twice if (found := agreement(source, spec, case)) is not None]
