"""Cases and their labels, as MONAI Label's clients ask for them."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Query, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.utils.others.generic import get_mime_type

from maml_app.cases.case import FINAL, Case
from maml_app.cases.history import Entry
from maml_app.errors import CaseError
from maml_app.imaging.files import read_label
from maml_app.labelling.review import Judgement, judge
from maml_app.labelling.saving import Sent, find_label, save
from maml_app.server.forms import ImageId, LabelId, LabelParams, Notes, ReviewInfo, Tag, parsed, segments
from maml_app.server.house import Here, House
from maml_app.server.identity import Drawing, Leading, Looking, User
from maml_app.server.routes.history import seen_case, sees
from maml_app.server.scratch import Scratch, extension_of, keep
from maml_app.server.uploads import check_on_grid

router = APIRouter()

VERSION = re.compile(r"version_\d+")  # a tag of 3D Slicer's reviewer


class Output(StrEnum):
    """How much of the datastore is told."""

    STATS, ALL = "stats", "all"


@router.get("/datastore/")
def datastore(
    house: Here,
    user: Looking,
    output: Output = Output.STATS,
    start: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int | None, Query(ge=1)] = None,
) -> dict[str, Any]:
    """How many cases there are and how many are labelled; or each with its labels, a page of them with `count`."""
    if output == Output.ALL:
        return house.store.json(start, count, sees(house, user))
    return house.store.status()


def _file(path: str) -> FileResponse:
    name = Path(path).name
    return FileResponse(path, media_type=get_mime_type(path), filename=name)


@router.get("/datastore/image")
def image(house: Here, user: Looking, image: ImageId) -> FileResponse:
    """An image of a case, as NIfTI."""
    return _file(house.store.get_image_uri(image))


@router.head("/datastore/image")
def has_image(
    house: Here, user: Looking, image: ImageId, check_sum: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """Whether there is such an image, and whether it is the one with this SHA-256."""
    path = Path(house.store.get_image_uri(image))
    if check_sum:
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        if check_sum.rpartition(":")[2].lower() != own:
            raise HTTPException(404, "The image is another one than the checksum says.")
    return Response()


@router.get("/datastore/image/info")
def image_info(house: Here, user: Looking, image: ImageId) -> dict[str, Any]:
    """What the case of an image holds, and notes about it."""
    found: dict[str, Any] = house.store.get_image_info(image)
    return found


@router.put("/datastore/image/info")
def note(house: Here, user: Drawing, image: ImageId, info: Annotated[str, Form()] = "{}") -> None:
    """Add notes about a case."""
    notes = parsed(info, Notes, "info").model_dump()
    house.store.update_image_info(image, {**notes, **({"user": user.name} if user.name else {})})


@router.get("/datastore/label")
def label(house: Here, user: Looking, label: LabelId, tag: Tag) -> FileResponse:
    """A stored label map."""
    return _file(str(find_label(*_named(house, user, label, tag)).local()))


@router.head("/datastore/label")
def has_label(house: Here, user: Looking, image: ImageId, tag: Tag) -> Response:
    """Whether a case has a label with a tag."""
    _named(house, user, image.partition("@")[0], tag)
    return Response()


@router.get("/datastore/label/info")
def label_info(house: Here, user: Looking, label: LabelId, tag: Tag) -> dict[str, Any]:
    """What is known about a stored label."""
    case, name = _named(house, user, label, tag)
    found: dict[str, Any] = house.store.get_label_info(f"{case.id}@{name}", find_label(case, name).tag)
    return found


@router.put("/datastore/label/info")
def judge_label(
    house: Here,
    user: Leading,
    label: LabelId,
    tag: Tag = FINAL,
    info: Annotated[str, Form(description="JSON: segmentationMeta, as 3D Slicer's reviewer sends it")] = "{}",
) -> dict[str, str]:
    """What a reviewer says of a label: approved or flagged, with a comment."""
    meta = parsed(info, ReviewInfo, "info").segmentationMeta
    verdict = meta.verdict()
    if verdict:
        case, name = _named(house, user, label, tag)
        judge(house.source, house.spec, case.id, name, Judgement(verdict, user.name or meta.approvedBy, meta.comment))
    return {"label": label, "status": meta.status}


@router.put("/datastore/label")
def save_label(
    house: Here,
    user: Drawing,
    scratch: Scratch,
    image: ImageId,
    label: Annotated[UploadFile, File(description="NIfTI or NRRD on the grid of an image of the case")],
    params: Annotated[str, Form(description="JSON: label_info, author, drawn, model_version, parent, proposal")] = "{}",
    tag: Tag = FINAL,
) -> dict[str, Any]:
    """Store a label map as the case's newest. 409: it is kept, and waits for someone to choose."""
    told = parsed(params, LabelParams, "params")
    file = keep(label.file, scratch, extension_of(label.filename))
    case, asked = house.source.resolve(image)
    check_on_grid(file, case, asked)
    with house.decoding:
        # a reviewer's corrections come as version_1, version_2, …: they are newer versions like any other
        kind = FINAL if not tag or VERSION.fullmatch(tag) else tag
        sent = Sent(image, read_label(file), told.told(user.name), kind, segments(told.label_info), told.nothing_there)
        entry = store_label(house, sent)
    return {"image": image, "label": f"{entry.case}@{entry.label}"}


def store_label(house: House, sent: Sent) -> Entry:
    """Store a label and tell the app; raises as `save`."""
    entry = save(house.source, house.spec, sent)
    house.app.on_save_label(sent.image, f"{entry.case}@{entry.label}")
    return entry


def _named(house: House, user: User, label: str, tag: str) -> tuple[Case, str]:
    """The case, as its user may see it, and the id of the label that `CASE` (its newest) or `CASE@LABEL` names.

    Raises:
        CaseError: there is none.
    """
    case_id, _, name = label.partition("@")
    case = seen_case(house, house.source.case(case_id), user)
    if name:
        return case, find_label(case, name).id
    kind = FINAL if VERSION.fullmatch(tag) else tag
    if kind == FINAL and case.label:
        return case, case.label.id
    found = [ref.id for ref in case.labels if ref.tag == kind and kind != FINAL]
    if not found:
        raise CaseError(f"expected a label of case {case.id!r} with tag {tag!r}, got the unknown id {label!r}")
    return case, found[-1]
