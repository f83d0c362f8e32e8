"""What our extension of the OHIF viewer asks for, and the viewer's own files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from monailabel.endpoints import ohif
from pydantic import Field

from maml_app.cases.case import Case
from maml_app.choosing.store import ScoreStore
from maml_app.errors import CaseError
from maml_app.imaging.files import read_grid
from maml_app.labelling.drafts import Drafts
from maml_app.server.device import Answer
from maml_app.server.forms import Form, Name, Uid
from maml_app.server.house import Here, House
from maml_app.server.identity import Leading, Looking
from maml_app.server.routes.history import seen_case
from maml_app.versions.overlays import DISAGREEMENT, LEVELS, UNCERTAINTY, image_levels

router = APIRouter()


class Taken(Form):
    """What a series is taken for; '' for no modality."""

    modality: Annotated[str, Field(max_length=64)] = ""


WORKPLACE = Path(__file__).resolve().parents[2] / "viewer"
# each uses only those before it
PARTS = (
    "server",
    "slices",
    "shapes",
    "page",
    "labels",
    "panel",
    "ohif",
    "work",
    "drawing",
    "saving",
    "cases",
    "training",
    "overlay",
    "prompts",
    "main",
)
STATIC = Path(ohif.__file__).with_name("static")
OHIF = STATIC / "ohif"


@router.get("/favicon.ico", include_in_schema=False)
def favicon() -> FileResponse:
    """The icon of the pages."""
    return FileResponse(STATIC / "favicon.ico", media_type="image/x-icon")


@router.get("/ohif/app-config.js", include_in_schema=False)
def app_config(house: Here, user: Looking) -> Response:
    """The viewer's settings and our extension of it, as JavaScript."""
    spec = house.spec
    shown = {
        "model": spec.name,
        "title": spec.title,
        "modalities": spec.modality_names,
        "labels": [{"name": label.name, "value": label.value, "colour": label.colour} for label in spec.labels],
        "kinds": {modality.name: modality.kind for modality in spec.modalities},
        "windows": {modality.name: modality.window for modality in spec.modalities},
        "levels": LEVELS,
        "guest": house.guest is not None,
    }
    stock = (OHIF / "app-config.js").read_text(encoding="utf-8")
    parts = [stock, f"window.maml = {json.dumps(shown)};", workplace()]
    headers = {"Cache-Control": "no-cache"}
    return Response("\n".join(parts), media_type="text/javascript", headers=headers)


def workplace() -> str:
    """The viewer's modules as one script: OHIF reads its configuration before any module would be loaded."""
    texts = [(WORKPLACE / f"{part}.js").read_text(encoding="utf-8") for part in PARTS]
    joined = "\n".join(re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE) for text in texts)
    return "(() => {\n'use strict';\n" + re.sub(r"^export ", "", joined, flags=re.MULTILINE) + "})();\n"


@router.get("/ohif/{path:path}", include_in_schema=False)
def viewer(user: Looking, path: str) -> FileResponse:
    """A file of the viewer; its page for every other path, as it finds its way by itself."""
    file = (OHIF / path.replace("\0", "")).resolve()
    if not file.is_relative_to(OHIF.resolve()) or not file.is_file():
        file = OHIF / "index.html"
    return FileResponse(file)


@router.get("/maml/study/{study}")
def study_info(
    house: Here,
    user: Looking,
    study: Name,
    series: Annotated[Name, Query(description="one on the screen: says which case, if the study holds several")] = "",
) -> dict[str, Any]:
    """The series of a study's case by modality, and the one to show first."""
    try:
        case = house.source.case(study)
    except CaseError:
        if not series:
            raise
        case, _ = house.source.resolve(series)
    choices = [
        {
            "series": choice.series.key,
            "words": f"{choice.series.number or ''} {choice.series.attributes.get('SeriesDescription') or ''}".strip(),
            "modality": choice.modality or "",
            "why": "; ".join(choice.reasons),
        }
        for choice in house.source.choices(case.study)
    ]
    return {
        "case": case.id,
        "choices": choices,
        "series": case.series,
        "reference": case.series[case.frame_modality(house.spec.preference)] if case.series else "",
    }


@router.put("/maml/series/{series}/modality")
def set_modality(house: Here, user: Leading, series: Uid, asked: Taken) -> None:
    """Take a series for another modality of the task, or none, from now on; it goes before every rule."""
    with house.saving:
        house.source.set_modality(series, asked.modality)


@router.get("/maml/series/{series}/overlay", response_class=Response)
async def overlay(
    request: Request,
    house: Here,
    user: Looking,
    series: Name,
    of: Annotated[Name, Query(description="a modality, `uncertainty` or `disagreement`")],
) -> Response:
    """Another modality, or where the model is not sure, on the grid of a series: uint8 levels, column fastest."""

    def work(folder: Path) -> Answer:
        case, asked = house.source.resolve(series)
        if of in (UNCERTAINTY, DISAGREEMENT):
            levels = house.app._infers[house.spec.name].doubt(case, asked, of)
        else:
            levels = image_levels(case, of, asked, house.spec)
        file = folder / "levels"
        file.write_bytes(np.ascontiguousarray(levels.transpose(2, 1, 0)).tobytes())
        return Answer(file, {})

    async with house.device.answer(f"overlay {series} {of}", work, request.is_disconnected) as answer:
        content = await run_in_threadpool(answer.file.read_bytes)
    return Response(content, media_type="application/octet-stream")


@router.get("/maml/picture/{case_id}", response_class=Response)
def picture(house: Here, user: Looking, case_id: Name) -> Response:
    """The slice, as PNG, on which the experts disagree most, as the newest model that looked at the case sees it."""
    scores = ScoreStore(house.registry.scores)
    for version in reversed(house.registry.history()):
        path = scores.picture(version, case_id)
        if path:
            return Response(path.read_bytes(), media_type="image/png")
    raise CaseError(f"case {case_id}: no model has looked at it yet")


@router.get("/maml/series/{series}")
def series_info(house: Here, user: Looking, series: Name) -> dict[str, Any]:
    """What the case of a series holds: modalities there and missing, and the slices of this series in order."""
    case, asked = house.source.resolve(series)
    case = seen_case(house, case, user)
    draft = Drafts(house.source.state).of(case.id, user.name)
    grid = read_grid(case.grids[asked])
    return {
        "case": case.id,
        "modality": asked,
        "modalities": list(case.images),
        "missing": list(case.missing(house.spec.modality_names)),
        "told": [*(f"{name} cannot be used: {why}" for name, why in case.left_out.items()), *case.notes],
        "labelled": case.label is not None,
        "label": _newest(house, case),
        "draft": draft.model_dump(mode="json", exclude={"file"}) if draft else None,
        "model": house.registry.served(),
        "slices": house.source.slices(case, asked),
        "columns": grid.shape[0],
        "voxel_ml": grid.voxel_ml,
    }


def _newest(house: House, case: Case) -> dict[str, Any] | None:
    """What is known of the label that counts; None if there is none."""
    if case.label is None:
        return None
    known = {found.entry.label: found for found in house.source.history(case.id)}
    found = known.get(case.label.id)
    if found is None:
        return {"label": case.label.id}  # it came with the images
    entry = found.entry
    changed_ml = round(sum(change.ml for change in entry.changes.values()), 2) if entry.changes else None
    told = entry.model_dump(mode="json", include={"label", "author", "client", "saved", "image", "volume_ml", "drawn"})
    return {**told, "state": found.state.value, "changed_ml": changed_ml}
