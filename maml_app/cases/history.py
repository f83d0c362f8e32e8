"""The history of a case's labels: what is known about each, and what people decided about it. Only ever added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

FINAL = "final"  # tag of a person's label: what is trained on
ORIGINAL = "original"  # tag of a model's proposal: never trained on


class State(StrEnum):
    """What a label counts for.

    A `contested` one was saved over another person's that its author had not seen, or emptied one: a person chooses.
    A `gone` one was taken out of the studies by other means.
    """

    PROPOSAL, FINAL, REVIEWED, CONTESTED = "proposal", "final", "reviewed", "contested"
    REJECTED, WITHDRAWN, GONE = "rejected", "withdrawn", "gone"

    @property
    def stands(self) -> bool:
        """Whether it can be the case's label."""
        return self in (State.FINAL, State.REVIEWED)


class Written(BaseModel):
    """Base of what is written to disk: never changed; keys of newer versions are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Change(Written):
    """How far a label is from another one, for one structure, on the new label's grid.

    Attributes:
        voxels: that are in one of them only; `ml`: their volume.
        dice, surface_dice: None if it is in neither.
        added_path_mm: length of the contours, drawn slice by slice, that the other one does not have (added path
            length, Vaassen et al. 2020, 10.1016/j.phro.2019.12.001).
    """

    voxels: int
    ml: float
    dice: float | None
    surface_dice: float | None
    added_path_mm: float


class Proposal(Written):
    """What a label started from: the version of the model, and the hash of its label map; '' if not known."""

    model: str = ""
    content: str = ""


class Told(Written):
    """What is told about a label when it is saved.

    Attributes:
        author: who drew or changed it; `client`: with which program.
        parent: the id of the label that its author had on the screen.
        drawn: MANUAL, SEMIAUTOMATIC, AUTOMATIC (DICOM's words, PS3.3 C.8.20.2), '' if not told.
        seconds: from the proposal to the save.
        changes: against the proposal, by label name; empty if it is not known.
        contests: the id of the label it would have replaced unseen.
        restores: the id of the earlier version that it repeats.
    """

    author: str = ""
    client: str = ""
    parent: str = ""
    proposal: Proposal = Proposal()
    drawn: str = ""
    seconds: float | None = None
    changes: Mapping[str, Change] = Field(default_factory=dict)
    contests: str = ""
    restores: str = ""
    comment: str = ""

    def with_(self, **values: object) -> Told:
        """The same with some values changed."""
        return self.model_copy(update=values)


class Entry(Told):
    """One label in a case's history.

    Attributes:
        label: its id, as FINAL-0003; `version` and `tag` are in it.
        image: the modality, or the SeriesInstanceUID, on whose grid it lies.
        content: hash of voxels and affine; `volume_ml` by label name.
        values: label name -> its value in the map, as the task had it then; empty where names are in the object itself.
    """

    case: str
    label: str
    version: int
    tag: str = FINAL
    image: str = ""
    content: str = ""
    saved: datetime = datetime.fromtimestamp(0, UTC)
    volume_ml: Mapping[str, float] = Field(default_factory=dict)
    values: Mapping[str, int] = Field(default_factory=dict)

    @property
    def first_state(self) -> State:
        """What it counts for until someone decides."""
        if self.tag != FINAL:
            return State.PROPOSAL
        return State.CONTESTED if self.contests else State.FINAL


class Decision(Written):
    """What someone decided about a label: its state from then on, with a comment."""

    case: str
    label: str
    state: State
    by: str = ""
    at: datetime
    comment: str = ""


@dataclass(frozen=True)
class Recorded:
    """A label with all decisions about it, oldest first."""

    entry: Entry
    decisions: tuple[Decision, ...] = ()
    gone: bool = False

    @property
    def state(self) -> State:
        if self.gone:
            return State.GONE
        return self.decisions[-1].state if self.decisions else self.entry.first_state


def history(entries: Iterable[Entry], decisions: Iterable[Decision], gone: Sequence[str] = ()) -> list[Recorded]:
    """The entries of one case by version, each with what was decided about it."""
    about: dict[str, list[Decision]] = {}
    for decision in sorted(decisions, key=lambda decision: decision.at):
        about.setdefault(decision.label, []).append(decision)
    ordered = sorted(entries, key=lambda entry: (entry.version, entry.saved, entry.label))
    return [Recorded(entry, tuple(about.get(entry.label, ())), entry.label in gone) for entry in ordered]


def now() -> datetime:
    """The time, UTC, to the millisecond."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
