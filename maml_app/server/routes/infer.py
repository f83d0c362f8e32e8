"""Segmentations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder

from maml_app.accounts import Role
from maml_app.server.device import Answer
from maml_app.server.forms import ImageId, InferParams, Name, SessionId, parsed
from maml_app.server.house import Here, House
from maml_app.server.identity import Looking
from maml_app.server.routes.sessions import session_image
from maml_app.server.scratch import Scratch, extension_of, keep
from maml_app.server.uploads import check_on_grid, check_size

router = APIRouter()

PIECE = 1 << 18  # bytes of an answer that are read at a time


class Output(StrEnum):
    """What is answered: the label map's file, what is told about it, or both."""

    IMAGE, JSON, ALL = "image", "json", "all"


@router.post("/infer/{model}", response_class=Response)
async def infer(
    request: Request,
    house: Here,
    user: Looking,
    scratch: Scratch,
    model: Name,
    image: ImageId = "",
    session_id: SessionId = "",
    params: Annotated[str, Form(description="JSON: grid, convention, result_extension, result_compress")] = "{}",
    file: Annotated[UploadFile | None, File(description="an image that is in no study; `grid` is its modality")] = None,
    label: Annotated[UploadFile | None, File(description="a labelmap with scribbles, for TASK_scribbles")] = None,
    output: Output = Output.ALL,
) -> Response:
    """Segment a case on the grid of one of its images, or mend a label of it.

    Answers by `output`: image, the label map's file; json, what is told about it; all, both as multipart/form-data.
    """
    asked = parsed(params, InferParams, "params")
    if model not in house.app._infers:
        raise HTTPException(404, f"expected a model of {sorted(house.app._infers)}, got {model!r}")
    if asked.save_label and not user.role.covers(Role.ANNOTATOR):
        raise HTTPException(403, f"{user.name} is {user.role.value}: saving a proposal needs the role annotator.")
    sent = await run_in_threadpool(_sent, house, file, session_id, scratch)
    if sent is None and not image:
        raise HTTPException(400, "expected image, session_id or a file, got none of them")
    drawn = await run_in_threadpool(_labelmap, house, label, "" if sent else image, scratch) if label else None
    told = {"model": model, "image": image, **asked.task_request()}
    # what is sent or stored is computed for each request, everything else once for all who ask at a time
    key = json.dumps(told, sort_keys=True) if not (sent or drawn or asked.save_label) else ""
    if sent:
        told["upload"] = str(sent)
    if drawn:
        told["labelmap"] = str(drawn)
    if asked.save_label:
        told |= {"save_label": True, "author": user.name}

    def work(folder: Path) -> Answer:
        result = house.app.infer({**told, "folder": str(folder)})
        return Answer(Path(result["file"]), result["params"])

    async with house.device.answer(key, work, request.is_disconnected) as answer:
        own = scratch / answer.file.name
        os.link(answer.file, own)
    return _response(own, answer.params, output)


def _sent(house: House, file: UploadFile | None, session_id: str, scratch: Path) -> Path | None:
    """The image that came with a request or before it, small enough to be read."""
    if session_id:
        path = session_image(house, session_id)
    elif file is not None:
        path = keep(file.file, scratch, extension_of(file.filename))
    else:
        return None
    check_size(path, house.settings.upload_mvox)
    return path


def _labelmap(house: House, label: UploadFile, image: str, scratch: Path) -> Path:
    """The labelmap that came with a request, on the grid of an image of its case, or small enough to be read."""
    path = keep(label.file, scratch, extension_of(label.filename), "labelmap")
    if image:
        check_on_grid(path, *house.source.resolve(image))
    else:
        check_size(path, house.settings.upload_mvox)
    return path


def _response(file: Path, params: dict[str, Any], output: Output) -> Response:
    if output == Output.JSON:
        return JSONResponse(params)
    kind = get_mime_type(str(file))
    if output == Output.IMAGE:
        return FileResponse(file, media_type=kind, filename=file.name)
    return StreamingResponse(*_parts(file, params, kind))


def _parts(file: Path, params: dict[str, Any], kind: str) -> tuple[Iterator[bytes], int, dict[str, str]]:
    """Both parts as multipart/form-data, read piece by piece."""
    opened = file.open("rb")
    fields = {"params": (None, json.dumps(params), "application/json"), "image": (file.name, opened, kind)}
    encoder = MultipartEncoder(fields=fields)

    def pieces() -> Iterator[bytes]:
        with opened:
            while piece := encoder.read(PIECE):
                yield piece

    return pieces(), 200, {"Content-Type": encoder.content_type, "Content-Length": str(encoder.len)}
