"""The campaign's page, and what its buttons ask: cases skipped and given to people, models served."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, pass_context
from markupsafe import Markup
from monailabel.utils.async_tasks import utils as background
from pydantic import Field

from maml_app.accounts import Role
from maml_app.cases.case import Case
from maml_app.cases.history import Entry
from maml_app.choosing.store import shared_scores
from maml_app.errors import ModelError
from maml_app.labelling.overview import overview
from maml_app.server.forms import Form, Name, Text
from maml_app.server.house import Here, House
from maml_app.server.identity import Drawing, Leading, Looking, User
from maml_app.server.routes.training import GOING
from maml_app.versions.runs import last_run

router = APIRouter()

PAGES = Path(__file__).resolve().parents[1] / "pages"
SHOWN = 12  # cases of the queue
KINDS = {"campaign.css": "text/css", "campaign.js": "text/javascript"}


class Person(Form):
    """To whom a case is given."""

    to: Annotated[Text, Field(min_length=1)]


def _button(
    words: str, path: str, body: dict[str, Any], ask: str = "", question: str = "", method: str = "POST"
) -> Markup:
    asked = Markup(' data-ask="{}" data-question="{}"').format(ask, question) if ask else Markup("")
    shown = Markup('<button type="button" data-path="{}" data-body="{}" data-method="{}"{}>{}</button>')
    return shown.format(path, json.dumps(body), method, asked, words)


def _when(moment: datetime) -> str:
    """So long ago, in words."""
    seconds = max(0, (datetime.now(UTC) - moment).total_seconds())
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    return "just now"


@pass_context
def _link(context: Any, case_id: str) -> Markup:
    """A case's name; in an archive it opens in the viewer."""
    study = context["studies"].get(case_id, "")
    if not study:
        return Markup("<strong>{}</strong>").format(case_id)
    path = f"/ohif/monai-label?StudyInstanceUIDs={quote(study)}"
    return Markup('<a href="{}">{}</a>').format(path, context["names"].get(case_id, case_id))


def _changed(entry: Entry) -> float:
    return sum(change.ml for change in entry.changes.values())


PAGE = Environment(loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
PAGE.globals |= {"button": _button, "when": _when, "link": _link, "changed": _changed}


@router.get("/", response_class=Response)
def first_page(request: Request, house: Here, user: Looking) -> Response:
    """The campaign's page for a browser; where things are for a program."""
    if "text/html" not in request.headers.get("accept", ""):
        viewer = {"viewer": "/ohif/"} if house.archive else {}
        told = {"name": house.app.name, **viewer, "clients": "/info/", "api": "/openapi.json"}
        return Response(json.dumps(told), media_type="application/json")
    return HTMLResponse(PAGE.get_template("campaign.html").render(_content(house, user)))


@router.get("/docs", include_in_schema=False)
def api_page(request: Request, house: Here, user: Looking) -> Response:
    """Every route, who may use it, and what it does."""
    rows = [
        {
            "method": method,
            "path": route.path,
            "role": role_of(route),
            "words": (route.description or "").split("\n")[0],
        }
        for router in request.app.state.routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in sorted(route.methods or ())
    ]
    rows.sort(key=lambda row: (row["path"], row["method"]))
    return HTMLResponse(PAGE.get_template("api.html").render(title=house.spec.title, rows=rows))


def role_of(route: APIRoute) -> str:
    """The least role that a route asks for; '' if nobody has to log in."""
    for dependency in route.dependant.dependencies:
        role = getattr(dependency.call, "role", None)
        if role is not None:
            return str(role.value)
    return ""


@router.get("/maml/page/{file}", include_in_schema=False)
def part(file: Name) -> FileResponse:
    """What the page is made of."""
    if file not in KINDS:
        raise HTTPException(404, "There is no such part of a page.")
    return FileResponse(PAGES / file, media_type=KINDS[file])


def _content(house: House, user: User) -> dict[str, Any]:
    cases, histories = house.source.cases(), house.source.histories()
    run = last_run(house.registry.runs)
    strategy = house.app._strategies["random"]
    expected = _expected(house)
    return {
        "title": house.spec.title,
        "spec": house.spec,
        "archive": house.archive,
        "user": user.name,
        "role": user.role.value,
        "may": {role.value: user.role.covers(role) for role in Role},
        "studies": {case.id: case.study for case in cases},
        "names": {case.id: case.patient for case in cases if case.patient},
        "found": overview(cases, histories, house.spec, expected=expected),
        "expected": expected,
        "strategy": strategy.description,
        "queue": _queue(house, strategy, user),
        "models": _models(house),
        "can_go_back": len(house.registry.history()) > 1,
        "running": any(task["status"] in GOING for task in background.tasks("train")),
        "run": {"progress": {}, **run},
        "problems": _problems(house, cases),
    }


def _expected(house: House) -> dict[str, float]:
    """The Dice that the served model expects of its answers, by case id, of the cases that it has looked at."""
    version = house.registry.served()
    expectation = house.registry.expectation(version) if version else None
    if version is None or expectation is None:
        return {}
    scores = shared_scores(house.registry.scores).read(version)
    found = {case: expectation.dice(score.promised) for case, score in scores.items()}
    return {case: dice for case, dice in found.items() if dice is not None}


def _queue(house: House, strategy: Any, user: User) -> list[dict[str, Any]]:
    rows = []
    for ranked in strategy.waiting(user.name, SHOWN):
        row = {"case": ranked.case, "reason": ranked.reason, "given": strategy.given_to(ranked.case)}
        pictured = any(strategy.scores.picture(version, ranked.case) for version in house.registry.history()[-1:])
        rows.append({**row, "picture": f"/maml/picture/{ranked.case}" if pictured else ""})
    return rows


def _models(house: House) -> list[dict[str, Any]]:
    rows = []
    served = house.registry.served()
    for version in reversed(house.registry.versions()):
        report = house.registry.report(version)
        gate = report.get("gate") or {}
        scores = report.get("validation") or report.get("cross_validation") or {}
        numbers = {key: "–" if scores.get(key) is None else f"{scores[key]:.3f}" for key in ("mean", "full")}
        reasons = gate.get("reasons") or []
        rows.append(
            {
                "version": version,
                "state": "served" if version == served else "candidate" if gate.get("publish") is False else "",
                "trained_on": len(report.get("trained_on") or {}),
                "validated_on": len(report.get("validated_on") or {}),
                "gate": f"worse: {'; '.join(reasons[:2])}" if reasons else "passed" if gate else "–",
                "curves": _curves(house, version) is not None,
                **numbers,
            }
        )
    return rows


def _problems(house: House, cases: list[Case]) -> list[str]:
    """What the listing alone tells; what only the files' content tells is for `check`."""
    found = [f"{unused.where}: not used: {unused.reason}" for unused in house.source.unused() if unused.wrong]
    for case in cases:
        found += [f"{case.id}: {problem}" for problem in case.problems]
        found += [f"{case.id}: {name} cannot be used: {why}" for name, why in case.left_out.items()]
        if case.label and case.label.problem:
            found.append(f"{case.id}: {case.label.problem}")
        found += [f"{case.id}: {note}" for note in case.notes]
    return found


def _curves(house: House, version: str) -> Path | None:
    run = str(house.registry.report(version).get("run") or "")
    path = house.registry.runs / run / "curves.png"
    return path if run and "/" not in run and path.is_file() else None


@router.get("/maml/models/{version}/curves", response_class=Response)
def curves(house: Here, user: Looking, version: Name) -> FileResponse:
    """The curves of the training that made a version, PNG."""
    path = _curves(house, version) if version in house.registry.versions() else None
    if path is None:
        raise ModelError(f"{version}: there are no curves of its training")
    return FileResponse(path, media_type="image/png")


@router.post("/maml/models/{version}/serve")
def serve_model(house: Here, user: Leading, version: Name) -> dict[str, str | None]:
    """Serve a stored version from now on."""
    house.registry.serve(version)
    return {"served": house.registry.served()}


@router.post("/maml/models/rollback")
def roll_back(house: Here, user: Leading) -> dict[str, str | None]:
    """Serve again what was served before."""
    house.registry.rollback()
    return {"served": house.registry.served()}


@router.post("/maml/cases/{case}/skip")
def skip(house: Here, user: Drawing, case: Name) -> dict[str, str]:
    """Offer a case again only after all others."""
    house.source.update_info(case, {"skipped": time.time()})
    return {"case": case}


@router.post("/maml/cases/{case}/assign")
def assign(house: Here, user: Leading, case: Name, person: Person) -> dict[str, str]:
    """Give a case to someone: it is offered to them first, and to nobody else until it was."""
    with house.choosing:  # or someone who is being given the case would pass for the one to whom it is assigned
        house.app._strategies["random"].assign(case, person.to)
    return {"case": case, "to": person.to}
