"""A case's labels over time: what was saved and said, and what a reviewer or an annotator decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException

from maml_app.accounts import Role
from maml_app.cases.case import Case
from maml_app.cases.history import FINAL, Recorded, Told
from maml_app.imaging.labels import read_stored_label
from maml_app.labelling import review
from maml_app.labelling.comparing import changes
from maml_app.labelling.review import Verdict
from maml_app.labelling.saving import Pick, choose, find_label, restore
from maml_app.server.forms import Choice, Judgement, Name
from maml_app.server.house import Here, House
from maml_app.server.identity import Drawing, Leading, Looking, User

router = APIRouter()


@router.get("/maml/cases/{case}/history")
def history(house: Here, user: Looking, case: Name) -> list[dict[str, Any]]:
    """Every label of the case, oldest first, with its state and what was decided about it."""
    seen = {ref.id for ref in seen_case(house, house.source.case(case), user).labels}
    return [
        {
            **found.entry.model_dump(mode="json"),
            "state": found.state.value,
            "decisions": [decision.model_dump(mode="json") for decision in found.decisions],
        }
        for found in house.source.history(house.source.case(case).id)
        if found.entry.label in seen or found.gone
    ]


def seen_case(house: House, case: Case, user: User) -> Case:
    """The case with the labels that a user may see."""
    return sees(house, user)(case, house.source.history(case.id))


def sees(house: House, user: User) -> Callable[[Case, Sequence[Recorded]], Case]:
    """What makes of a case and its history what a user may see of it."""
    reviewer = user.role.covers(Role.REVIEWER) and bool(user.name)
    return lambda case, recorded: review.seen_by(case, recorded, user.name, house.spec, reviewer)


@router.post("/maml/cases/{case}/labels/{label}/judge")
def judge(house: Here, user: Drawing, case: Name, label: Name, said: Judgement) -> dict[str, Any]:
    """Approve, reject or withdraw a label. An annotator may withdraw only what is their own."""
    if not user.role.covers(Role.REVIEWER):
        entry = next((found.entry for found in house.source.history(case) if found.entry.label == label), None)
        own = entry is not None and entry.author == user.name
        if said.verdict != Verdict.WITHDRAW or not own:
            raise HTTPException(403, f"{user.name} is {user.role.value}: this needs the role reviewer.")
    judgement = review.Judgement(said.verdict, user.name or said.client_id or "", said.comment)
    decision = review.judge(house.source, house.spec, case, label, judgement)
    return decision.model_dump(mode="json")


@router.post("/maml/cases/{case}/labels/{label}/choose")
def choose_label(house: Here, user: Drawing, case: Name, label: Name, choice: Choice) -> dict[str, Any]:
    """Decide about a label that waits for it: whether it counts from now on."""
    find_label(seen_case(house, house.source.case(case), user), label)
    pick = Pick(choice.keep, user.name or choice.client_id or "", choice.replaces)
    entry = choose(house.source, house.spec, case, label, pick)
    return {"label": f"{entry.case}@{entry.label}", "kept": choice.keep}


@router.post("/maml/cases/{case}/labels/{label}/restore")
def restore_label(house: Here, user: Drawing, case: Name, label: Name) -> dict[str, Any]:
    """Save an earlier version anew, as the newest."""
    find_label(seen_case(house, house.source.case(case), user), label)
    entry = restore(house.source, house.spec, case, label, Told(author=user.name, client="restore"))
    return {"label": f"{entry.case}@{entry.label}"}


@router.get("/maml/cases/{case}/labels/{label}/changes")
def changes_since(house: Here, user: Looking, case: Name, label: Name, since: Name) -> dict[str, Any]:
    """How far a label is from another one of the case, by label name."""
    found = seen_case(house, house.source.case(case), user)
    first, other = (read_stored_label(find_label(found, name), house.spec) for name in (label, since))
    return {name: change.model_dump() for name, change in changes(first, other, house.spec).items()}


@router.get("/maml/cases/{case}/agreement")
def agreement(house: Here, user: Leading, case: Name) -> dict[str, Any]:
    """How two readers of a case agree; {} unless two have read it."""
    found = review.agreement(house.source, house.spec, house.source.case(case).id)
    if found is None:
        return {}
    told = {name: change.model_dump() for name, change in found.changes.items()}
    return {"labels": [found.one, found.two], "authors": list(found.authors), "changes": told, "tag": FINAL}
