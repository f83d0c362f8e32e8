"""A case's label as a viewer draws it: on any of the case's series, voxel by voxel, saved or as a draft."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from maml_app.cases.case import Case
from maml_app.correcting.correct import Marked, Prompt, along
from maml_app.errors import LabelError, SettingsError, StudiesError
from maml_app.imaging.files import read_grid
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.labels import read_stored_label
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.labelling.drafts import Draft, Drafts
from maml_app.labelling.proposals import Proposals
from maml_app.labelling.saving import Sent, find_label
from maml_app.server.device import Answer
from maml_app.server.forms import CorrectParams, LabelParams, Name, Uid, parsed
from maml_app.server.house import Here, House
from maml_app.server.identity import Drawing, Looking, User
from maml_app.server.routes.history import seen_case
from maml_app.server.routes.labels import store_label

router = APIRouter()
logger = logging.getLogger(__name__)

DRAFT = "draft"
Voxels = Annotated[UploadFile, File(description="uint8 label values, column fastest, then row, then slice")]
Slices = Annotated[str, Form(description="JSON list of the slices, in the order of the voxels")]
Asked = Annotated[
    str,
    Form(
        description="JSON: label; prompts: [{path: [[x, y, z], …] in mm, LPS, inside}, …], the newest last; by: maml "
        "or nninteractive"
    ),
]
Params = Annotated[str, Form(description="JSON: parent, proposal, model_version, drawn, author, nothing_there")]


@router.get("/maml/series/{series}/label", response_class=Response)
def label_on_series(
    house: Here,
    user: Looking,
    series: Name,
    label: Annotated[Name, Query(description="a label's id, `draft`, or a proposal's hash")],
) -> Response:
    """A label of the case on the grid of a series, exact on the series it was drawn on: uint8, column fastest.

    The header X-Label-Exact says whether it is drawn on this series, or was brought onto it.
    """
    case, asked = house.source.resolve(series)
    grid = read_grid(case.grids[asked])
    with house.decoding:
        found = _stored(house, case, user, label)
        exact = found.grid.same_as(grid)
        voxels = resample_label(found.voxels, found.grid, grid)
        content = np.ascontiguousarray(voxels.transpose(2, 1, 0)).tobytes()
    headers = {"X-Label-Exact": "yes" if exact else "no", "Cache-Control": "no-store"}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _stored(house: House, case: Case, user: User, name: str) -> Volume:
    if name == DRAFT:
        drafts = Drafts(house.source.state)
        draft = drafts.of(case.id, user.name)
        drawn = drafts.label(case.id, draft) if draft else None
        if drawn is None:
            raise LabelError(f"case {case.id}: expected a draft of {user.name or 'this user'}, got none")
        return drawn
    proposal = Proposals(house.source.state).newest(case.id, name) if "-" not in name else None
    given = proposal.label() if proposal else None
    return given or read_stored_label(find_label(seen_case(house, case, user), name), house.spec)


@router.put("/maml/series/{series}/label")
def save_voxels(
    house: Here, user: Drawing, series: Uid, voxels: Voxels, slices: Slices, params: Params = "{}"
) -> dict[str, Any]:
    """Store a label drawn on a series as the case's newest. 409: it is kept, and waits for someone to choose."""
    told = parsed(params, LabelParams, "params")
    case, asked = house.source.resolve(series)
    with house.decoding:
        label = _drawn(house, case, asked, voxels, slices)
        entry = store_label(house, Sent(series, label, told.told(user.name), nothing_there=told.nothing_there))
    try:
        Drafts(house.source.state).drop(case.id, user.name)
    except StudiesError as error:  # who sees a failure saves once more
        logger.warning("%s@%s is saved, but %s", entry.case, entry.label, error)
    return {
        "label": f"{entry.case}@{entry.label}",
        "series": series,
        "modality": asked,
        "volume_ml": {name: round(entry.volume_ml.get(name, 0.0), 2) for name in house.spec.label_values.values()},
        "changes": {name: change.model_dump() for name, change in entry.changes.items()},
    }


@router.post("/maml/series/{series}/correct", response_class=Response)
async def correct(
    request: Request, house: Here, user: Looking, series: Uid, voxels: Voxels, slices: Slices, params: Asked
) -> Response:
    """The label drawn on a series after the newest prompt: uint8, column fastest, in the server's order of slices.

    The headers X-Gained-Ml and X-Lost-Ml say how much the label grew and shrank, X-Answered-By who drew it.
    """
    told = parsed(params, CorrectParams, "params")
    guest = house.guest if told.by == "nninteractive" else None
    if told.by == "nninteractive" and not guest:
        raise SettingsError("expected a server of nnInteractive to ask, got none; start with --conf nninteractive URL")
    value = house.spec.value_of(told.label)
    if value is None:
        raise LabelError(f"expected a label of {[known.name for known in house.spec.labels]}, got {told.label!r}")
    case, asked = await run_in_threadpool(house.source.resolve, series)
    label = await run_in_threadpool(_drawn, house, case, asked, voxels, slices)
    # DICOM's x and y run to the left and to the back, ours to the right and to the front
    drawn = [(np.array(prompt.path) * (-1, -1, 1), prompt.inside) for prompt in told.prompts]

    def work(folder: Path) -> Answer:
        marked = Marked(value, [Prompt(along(points, label.grid), inside) for points, inside in drawn])
        mending = house.app._infers[f"{house.spec.name}_clicks"]
        found = guest.correct(case, asked, label, marked) if guest else mending.mend(case, label, marked)
        file = folder / "label"
        file.write_bytes(np.ascontiguousarray(found.label.voxels.transpose(2, 1, 0)).tobytes())
        return Answer(file, {"gained": found.gained_ml, "lost": found.lost_ml, "by": found.by})

    async with house.device.answer("", work, request.is_disconnected) as answer:
        content = await run_in_threadpool(answer.file.read_bytes)
    headers = {"X-Gained-Ml": f"{answer.params['gained']:.2f}", "X-Lost-Ml": f"{answer.params['lost']:.2f}"}
    headers["X-Answered-By"] = quote(answer.params["by"], safe=" ,:/()")
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.put("/maml/series/{series}/draft")
def keep_draft(
    house: Here, user: Drawing, series: Uid, voxels: Voxels, slices: Slices, params: Params = "{}"
) -> dict[str, Any]:
    """Keep an unfinished drawing, in place of the user's one before."""
    told = parsed(params, LabelParams, "params").told(user.name)
    case, asked = house.source.resolve(series)
    with house.decoding:
        label = _drawn(house, case, asked, voxels, slices)
        draft = Draft(
            author=user.name,
            image=case.series.get(asked, asked),  # which series is a modality may change
            parent=told.parent,
            proposal=told.proposal.content,
        )
        kept = Drafts(house.source.state).keep(case.id, label, draft)
    return kept.model_dump(mode="json", exclude={"file"})


@router.delete("/maml/series/{series}/draft")
def drop_draft(house: Here, user: Drawing, series: Uid) -> None:
    """Forget the user's unfinished drawing."""
    case, _ = house.source.resolve(series)
    Drafts(house.source.state).drop(case.id, user.name)


def _drawn(house: House, case: Case, asked: str, voxels: UploadFile, slices: str) -> Volume:
    grid = read_grid(case.grids[asked])
    x, y, z = grid.shape
    content = voxels.file.read(x * y * z + 1)
    return Volume(_in_order(content, _names(slices), house.source.slices(case, asked), grid), grid.affine)


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
