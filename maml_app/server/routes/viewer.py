"""What our extension of the OHIF viewer asks for, and the viewer's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.endpoints import ohif

from maml_app.choosing.store import ScoreStore
from maml_app.errors import CaseError, LabelError
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.labelling.saving import Sent
from maml_app.server.forms import LabelParams, Name, Uid, parsed
from maml_app.server.house import Here
from maml_app.server.identity import Drawing, Looking
from maml_app.server.routes.labels import store_label

router = APIRouter()

EXTENSION = Path(__file__).resolve().parents[2] / "viewer" / "extension.js"
STATIC = Path(ohif.__file__).with_name("static")
OHIF = STATIC / "ohif"


@router.get("/favicon.ico", include_in_schema=False)
def favicon() -> FileResponse:
    return FileResponse(STATIC / "favicon.ico", media_type="image/x-icon")


@router.get("/ohif/app-config.js", include_in_schema=False)
def app_config(house: Here, user: Looking) -> Response:
    spec = house.spec
    shown = {
        "model": spec.name,
        "title": spec.title,
        "modalities": spec.modality_names,
        "labels": [{"name": one.name, "value": one.value, "colour": one.colour} for one in spec.labels],
    }
    stock = (OHIF / "app-config.js").read_text(encoding="utf-8")
    parts = [stock, f"window.maml = {json.dumps(shown)};", EXTENSION.read_text("utf-8")]
    headers = {"Cache-Control": "no-cache"}
    return Response("\n".join(parts), media_type="text/javascript", headers=headers)


@router.get("/ohif/{path:path}", include_in_schema=False)
def viewer(user: Looking, path: str) -> FileResponse:
    """A file of the viewer; its page for every other path, as it finds its way by itself."""
    file = (OHIF / path.replace("\0", "")).resolve()
    if not file.is_relative_to(OHIF.resolve()) or not file.is_file():
        file = OHIF / "index.html"
    return FileResponse(file)


@router.get("/maml/study/{study}")
def study_info(house: Here, user: Looking, study: Name) -> dict[str, Any]:
    """The series of a study's case by modality, and the one to show first."""
    case = house.source.case(study)
    return {
        "case": case.id,
        "series": case.series,
        "reference": case.series[case.frame_modality(house.spec.preference)] if case.series else "",
    }


@router.get("/maml/picture/{case_id}", response_class=Response)
def picture(house: Here, user: Looking, case_id: Name) -> Response:
    """The slice on which the experts disagree most, as the newest model that looked at the case sees it."""
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
    return {
        "case": case.id,
        "modality": asked,
        "modalities": list(case.images),
        "missing": list(case.missing(house.spec.modality_names)),
        "told": [*(f"{name} cannot be used: {why}" for name, why in case.left_out.items()), *case.notes],
        "labelled": case.label is not None,
        "slices": house.source.slices(case, asked),
    }


@router.put("/maml/series/{series}/label")
def save_voxels(
    house: Here,
    user: Drawing,
    series: Uid,
    voxels: Annotated[UploadFile, File(description="uint8 label values, column fastest, then row, then slice")],
    slices: Annotated[str, Form(description="JSON list of the slices, in the order of the voxels")],
    params: Annotated[str, Form(description="JSON: model_version, drawn, author")] = "{}",
) -> dict[str, Any]:
    """Store a label drawn on a series as the case's newest final label."""
    told = parsed(params, LabelParams, "params")
    case, asked = house.source.resolve(series)
    grid = read_grid(case.grids[asked])
    x, y, z = grid.shape
    with house.decoding:
        content = voxels.file.read(x * y * z + 1)
        label = Volume(_in_order(content, _names(slices), house.source.slices(case, asked), grid), grid.affine)
        entry = store_label(house, Sent(series, label, told.told(user.name), nothing_there=told.nothing_there))
    return {
        "label": f"{entry.case}@{entry.label}",
        "series": series,
        "modality": asked,
        "volume_ml": {name: round(entry.volume_ml.get(name, 0.0), 2) for name in house.spec.label_values.values()},
        "changes": {name: change.model_dump() for name, change in entry.changes.items()},
    }


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabelError(f"expected slices as a JSON list of names, got {text[:60]!r}")
    return names


def _in_order(content: bytes, sent: list[str], slices: list[str], grid: Grid) -> Array:
    """Voxels of slices in the viewer's order as (X, Y, Z) on the image's grid.

    Raises:
        LabelError: other slices than the series has, or another number of voxels.
    """
    x, y, z = grid.shape
    if sorted(sent) != sorted(slices) or len(set(sent)) != len(sent):
        raise LabelError(
            f"expected a label on the {len(slices)} slices of its series, got {len(sent)} slices, "
            f"{len(set(sent) & set(slices))} of them of this series"
        )
    if len(content) != x * y * z:
        raise LabelError(f"expected {x * y * z} voxels ({x} x {y} x {z}), got {len(content)}")
    planes = np.frombuffer(content, np.uint8).reshape(z, y, x)
    place = {name: index for index, name in enumerate(sent)}
    return planes[[place[name] for name in slices]].transpose(2, 1, 0)
