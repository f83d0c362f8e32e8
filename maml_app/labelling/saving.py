"""A label map that someone sends becomes the case's newest: checked, compared, and stored, or kept for a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from maml_app.cases.case import FINAL, Case, LabelRef
from maml_app.cases.history import Change, Decision, Entry, Recorded, State, Told, now
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, ConflictError, LabelError, MamlError
from maml_app.imaging.labels import read_stored_label
from maml_app.imaging.volume import Volume
from maml_app.labelling.comparing import changes, in_words
from maml_app.labelling.incoming import Segment, checked_label
from maml_app.labelling.proposals import Proposals


@dataclass(frozen=True, eq=False)
class Sent:
    """What someone sends.

    Attributes:
        image: what it is drawn on, as `CaseSource.resolve` reads it.
        segments: what the values mean, where they are a viewer's own.
        nothing_there: a person says that an empty label map is meant.
    """

    image: str
    label: Volume
    told: Told = field(default_factory=Told)
    tag: str = FINAL
    segments: Sequence[Segment] = field(default=())
    nothing_there: bool = False


def save(source: CaseSource, spec: TaskSpec, sent: Sent) -> Entry:
    """Store a label map as a new version of its case's label.

    What was stored already is not stored twice: the same label map by the same author is the label that there is.

    Raises:
        CaseError: no such case or image.
        LabelError: values or a grid that are not the case's.
        ConflictError: it is kept, but does not count until a person has chosen: another version came in between, or it
            is empty and the one before is not.
        StudiesError: it could not be stored.
    """
    case, asked = source.resolve(sent.image)
    label, on = checked_label(case, sent.label, spec, sent.segments, asked)
    if sent.tag != FINAL:
        return source.save_label(case, on, label, sent.tag, sent.told)
    told = _compared(source, spec, case, label, sent.told)
    with source.holding(case.id):
        case = source.case(case.id)
        recorded = source.history(case.id)
        before = rivals(case, recorded, told.author, spec)
        newest = before[-1] if before else None
        if newest is None:
            return source.save_label(case, on, label, FINAL, told)
        known = {found.entry.label: found.entry for found in recorded}
        again = known.get(newest.id)
        if again and again.content == label.content and again.author == told.author:
            return again
        why = ""
        if told.parent and told.parent != newest.id and told.parent in (*known, *(ref.id for ref in case.labels)):
            why = "unseen"
        elif not label.voxels.any() and not sent.nothing_there and _holds_something(newest, again, spec):
            why = "empty"
        if not why:
            return source.save_label(case, on, label, FINAL, told if told.parent else told.with_(parent=newest.id))
        mine = _kept_already(recorded, label, told, newest.id)
        if mine and why == "empty" and not told.parent:  # a client that cannot be asked: sent twice, it is meant
            source.decide(Decision(case=case.id, label=mine.label, state=State.FINAL, by=told.author, at=now()))
            return mine
        mine = mine or source.save_label(case, on, label, FINAL, told.with_(contests=newest.id))
    raise _conflict(why, mine, newest, again, _changes(label, newest, spec))


def rivals(case: Case, recorded: Sequence[Recorded], author: str, spec: TaskSpec) -> list[LabelRef]:
    """The labels that a new one of an author replaces, oldest first; with several readings only the author's own."""
    final = [ref for ref in case.labels if ref.tag == FINAL and ref.state.stands]
    if spec.review.readings == 1:
        return final
    known = {found.entry.label: found for found in recorded}
    reviewed = [ref for ref in final if ref.state == State.REVIEWED]
    if reviewed:  # the readings are over
        return final
    return [ref for ref in final if ref.id in known and known[ref.id].entry.author == author]


def _compared(source: CaseSource, spec: TaskSpec, case: Case, label: Volume, told: Told) -> Told:
    """What is told, with how far the label is from the proposal that it started from."""
    since = [found.entry.saved for found in source.history(case.id) if found.state.stands]
    if told.parent and not told.proposal.content:
        return told
    proposal = Proposals(source.state).newest(case.id, told.proposal.content, max(since, default=None))
    given = proposal.label() if proposal else None
    if proposal is None or given is None:
        return told
    seconds = told.seconds if told.seconds is not None else round((now() - proposal.at).total_seconds(), 1)
    return told.with_(
        proposal=told.proposal.model_copy(update={"model": proposal.model, "content": proposal.content}),
        seconds=seconds,
        changes=changes(label, given, spec),
    )


def _holds_something(ref: LabelRef, entry: Entry | None, spec: TaskSpec) -> bool:
    if entry and entry.content:
        return bool(entry.volume_ml)
    try:
        return bool(read_stored_label(ref, spec).voxels.any())
    except MamlError:
        return True


def _kept_already(recorded: Sequence[Recorded], label: Volume, told: Told, contests: str) -> Entry | None:
    """The entry of the same label map that was kept for a decision."""
    for found in recorded:
        entry = found.entry
        same = (entry.content, entry.author, entry.contests) == (label.content, told.author, contests)
        if same and found.state == State.CONTESTED:
            return entry
    return None


def _changes(label: Volume, other: LabelRef, spec: TaskSpec) -> dict[str, Change]:
    try:
        return changes(label, read_stored_label(other, spec), spec)
    except MamlError:
        return {}


def _conflict(why: str, mine: Entry, newest: LabelRef, entry: Entry | None, found: dict[str, Change]) -> ConflictError:
    who = (entry.author if entry else "") or "someone"
    when = f" at {entry.saved:%Y-%m-%d %H:%M} UTC" if entry and entry.content else ""
    if why == "unseen":
        said = (
            f"case {mine.case}: {who} saved {newest.id}{when}, after you had opened {mine.parent} ({in_words(found)}). "
            f"Yours is kept as {mine.label} and does not count until someone chooses between the two"
        )
    else:
        said = (
            f"case {mine.case}: the label sent is empty, and {newest.id}, which {who} saved{when}, is not. It is kept "
            f"as {mine.label} and does not count; if nothing is there, say so, or send it once more"
        )
    details = {
        "conflict": why,
        "case": mine.case,
        "mine": mine.label,
        "theirs": newest.id,
        "author": entry.author if entry else "",
        "saved": entry.saved.isoformat() if entry and entry.content else "",
        "changes": {name: change.model_dump() for name, change in found.items()},
    }
    return ConflictError(said, details)


@dataclass(frozen=True)
class Pick:
    """What someone decides about a label that waits for it.

    Attributes:
        keep: whether it is to count.
        replaces: the newest label as the person knows it, where that is another than the one that was in its way.
    """

    keep: bool
    by: str = ""
    replaces: str = ""


def choose(source: CaseSource, spec: TaskSpec, case_id: str, label: str, pick: Pick) -> Entry:
    """Decide about a label that waits for it: it counts from now on, or it is put aside. Returns its entry; if newer
    ones were saved meanwhile, that of its copy, which is the newest now.

    Raises:
        LabelError: it waits for no decision.
        ConflictError: meanwhile there is a newer one than the person knows.
    """
    with source.holding(case_id):
        recorded = source.history(case_id)
        mine = next((found for found in recorded if found.entry.label == label), None)
        if mine is None:
            raise CaseError(f"case {case_id}: expected a label of its history, got {label!r}")
        if mine.state != State.CONTESTED:
            raise LabelError(f"case {case_id}: {label} waits for no choice, it is {mine.state.value}")
        case = source.case(case_id)
        newest = next(reversed(rivals(case, recorded, mine.entry.author, spec)), None)
        if pick.keep and newest and newest.id not in (mine.entry.contests, pick.replaces):
            entry = next((found.entry for found in recorded if found.entry.label == newest.id), None)
            drawn = read_stored_label(find_label(case, label), spec)
            raise _conflict("unseen", mine.entry, newest, entry, _changes(drawn, newest, spec))
        chosen, comment = mine.entry, "chosen" if pick.keep else ""
        state = State.FINAL if pick.keep else State.WITHDRAWN
        if pick.keep and newest and newest.version > mine.entry.version:
            told = Told.model_validate(mine.entry.model_dump()).with_(contests="", restores=label, parent=newest.id)
            drawn = read_stored_label(find_label(case, label), spec)
            chosen = source.save_label(case, mine.entry.image, drawn, FINAL, told)
            state, comment = State.WITHDRAWN, f"chosen, as {chosen.label}"
        source.decide(Decision(case=case_id, label=label, state=state, by=pick.by, at=now(), comment=comment))
    return chosen


def restore(source: CaseSource, spec: TaskSpec, case_id: str, label: str, told: Told) -> Entry:
    """Save an earlier version anew, as the newest.

    Raises:
        CaseError: there is no such label.
    """
    case = source.case(case_id)
    ref = find_label(case, label)
    volume = read_stored_label(ref, spec)
    with source.holding(case_id):
        image = next((found.entry.image for found in source.history(case_id) if found.entry.label == label), "")
        _, on = checked_label(case, volume, spec, (), image)
        newest = source.case(case_id).label
        told = told.with_(restores=label, parent=newest.id if newest else "")
        return source.save_label(case, on, volume, FINAL, told)


def find_label(case: Case, label: str) -> LabelRef:
    """A label of a case by its id.

    Raises:
        CaseError: there is none.
    """
    for ref in case.labels:
        if ref.id == label:
            return ref
    raise CaseError(f"case {case.id}: expected a label of {[ref.id for ref in case.labels]}, got {label!r}")
