"""Review: what a second person says of a label, and how two readers of one case agree.

A task.yaml may ask for it: `review: {required: true}` lets only reviewed labels train, `readings: 2` gives each case to
two people who do not see each other's label until a reviewer has picked one or saved a third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from maml_app.cases.case import FINAL, Case
from maml_app.cases.history import Change, Decision, Entry, Recorded, State, now
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, LabelError
from maml_app.imaging.labels import read_stored_label
from maml_app.labelling.comparing import changes
from maml_app.labelling.saving import find_label


class Verdict(StrEnum):
    """What someone may say of a label."""

    APPROVE, REJECT, WITHDRAW = "approve", "reject", "withdraw"


STATES = {Verdict.APPROVE: State.REVIEWED, Verdict.REJECT: State.REJECTED, Verdict.WITHDRAW: State.WITHDRAWN}


@dataclass(frozen=True)
class Judgement:
    """What someone says of a label, and why."""

    verdict: Verdict
    by: str = ""
    comment: str = ""


@dataclass(frozen=True)
class Reading:
    """Two people's labels of one case, and how far apart they are, by label name."""

    case: str
    one: str
    two: str
    authors: tuple[str, str]
    changes: dict[str, Change]


def judge(source: CaseSource, spec: TaskSpec, case_id: str, label: str, said: Judgement) -> Decision:
    """Keep what someone says of a label. Of several readings the approved one is picked: the others are put aside.

    Raises:
        CaseError: there is no such label.
        LabelError: it is no label to be judged so, or a rejection gives no reason.
    """
    with source.holding(case_id):
        recorded = source.history(case_id)
        found = next((found for found in recorded if found.entry.label == label), None)
        if found is None:
            known = [found.entry.label for found in recorded]
            raise CaseError(f"case {case_id}: expected a label of {known}, got {label!r}")
        if found.entry.tag != FINAL or found.state in (State.GONE, State.WITHDRAWN):
            raise LabelError(f"case {case_id}: {label} is {found.state.value} and cannot be judged")
        if said.verdict == Verdict.REJECT and not said.comment.strip():
            raise LabelError(f"case {case_id}: expected a comment that says why {label} is rejected, got none")
        if said.verdict == Verdict.APPROVE and said.by and said.by == found.entry.author:
            raise LabelError(f"case {case_id}: {label} is {said.by}'s own; someone else has to approve it")
        if said.verdict == Verdict.APPROVE and spec.review.readings > 1 and readings(recorded):
            aside = f"{found.entry.author or 'another'}'s reading was picked, {label}"
            for other in recorded:
                if other.state == State.FINAL and other.entry.author != found.entry.author:
                    _decide(source, other.entry, State.WITHDRAWN, said.by, aside)
        return _decide(source, found.entry, STATES[said.verdict], said.by, said.comment)


def _decide(source: CaseSource, entry: Entry, state: State, by: str, comment: str) -> Decision:
    decision = Decision(case=entry.case, label=entry.label, state=state, by=by, at=now(), comment=comment)
    source.decide(decision)
    return decision


def readings(recorded: Sequence[Recorded]) -> list[Recorded]:
    """The newest standing label of each author, oldest first; [] once one of them is reviewed."""
    standing = [found for found in recorded if found.entry.tag == FINAL and found.state.stands]
    if any(found.state == State.REVIEWED for found in standing):
        return []
    newest = {found.entry.author: found for found in standing}
    return sorted(newest.values(), key=lambda found: found.entry.version)


def agreement(source: CaseSource, spec: TaskSpec, case_id: str) -> Reading | None:
    """How the first two readers of a case agree; None unless two have read it."""
    found = readings(source.history(case_id))
    if len(found) < 2:
        return None
    case = source.case(case_id)
    before, after = (read_stored_label(find_label(case, reading.entry.label), spec) for reading in found[:2])
    first, second = found[0].entry, found[1].entry
    return Reading(case_id, first.label, second.label, (first.author, second.author), changes(after, before, spec))


def seen_by(case: Case, recorded: Sequence[Recorded], user: str, spec: TaskSpec, reviewer: bool = False) -> Case:
    """The case with the labels that a user may see: no other reader's until the readings are over."""
    if spec.review.readings == 1 or reviewer:
        return case
    open_readings = {found.entry.label for found in readings(recorded) if found.entry.author != user}
    standing = {found.entry.label for found in recorded if found.state == State.REVIEWED}
    if standing or not open_readings:
        return case
    theirs = {found.entry.label for found in recorded if found.entry.author != user and found.entry.tag == FINAL}
    return replace(case, labels=tuple(ref for ref in case.labels if ref.id not in theirs))


def wants_label(case: Case, recorded: Sequence[Recorded], user: str, spec: TaskSpec) -> bool:
    """Whether a case is still to be labelled, by this user."""
    if case.label is None:
        return True
    if spec.review.readings == 1 or case.label.version == 0:
        return False
    found = readings(recorded)
    return 0 < len(found) < spec.review.readings and user not in {reading.entry.author for reading in found}
