"""The way to the archive for the viewer: QIDO-RS, WADO-RS and STOW-RS of its root (PS3.18), and nothing else.

A path is passed on only if it is one that DICOMweb defines: names of resources and UIDs, without any '%', '..' or '//',
so whatever way a path out of the root is written, it is refused. Both ways are streamed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator

import httpx
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from maml_app.server.house import Here
from maml_app.server.identity import Drawing, Looking

logger = logging.getLogger(__name__)
router = APIRouter()

TIMEOUT = httpx.Timeout(30.0, connect=5.0)  # s: between two pieces, and to connect
# archives close connections that nobody used for a second (Orthanc's KeepAliveTimeout)
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=0.5)
TRIES = 3  # of a request that changes nothing, when a connection breaks before an answer
UID = r"[0-9.]{1,64}"
SHOWN = r"(metadata|rendered|thumbnail|bulk(data)?(/[0-9A-Za-z]+)*)"
INSTANCE = rf"instances/{UID}(/({SHOWN}|frames/\d+(,\d+)*(/(rendered|thumbnail))?))?"
SERIES = rf"series/{UID}(/({SHOWN}|instances|{INSTANCE}))?"
STUDY = rf"studies/{UID}(/({SHOWN}|series|instances|{SERIES}|{INSTANCE}))?"
READ = re.compile(rf"studies|series|instances|{STUDY}", re.ASCII)
STORE = re.compile(rf"studies(/{UID})?", re.ASCII)

ASKED = ("accept", "accept-encoding", "content-type", "if-none-match", "if-modified-since", "range")
TOLD = ("content-type", "content-length", "content-encoding", "content-range", "etag", "last-modified")
ALSO_TOLD = ("cache-control", "retry-after", "warning")


def archive_client() -> httpx.AsyncClient:
    """An HTTP client with the archive's user and password, where they are set."""
    user, password = (os.environ.get(f"MONAI_LABEL_DICOMWEB_{part}", "") for part in ("USERNAME", "PASSWORD"))
    return httpx.AsyncClient(auth=(user, password) if user and password else None, timeout=TIMEOUT, limits=LIMITS)


def _resource(path: str) -> str:
    service, _, rest = path.partition("/")
    return rest if service in ("qido", "wado", "stow") else path


@router.get("/proxy/dicom/{path:path}", include_in_schema=False)
async def read(request: Request, house: Here, user: Looking, path: str) -> Response:
    """What the archive answers to a QIDO-RS or WADO-RS request below its root."""
    return await _passed_on(request, house.archive, READ, _resource(path))


@router.post("/proxy/dicom/{path:path}", include_in_schema=False)
async def store(request: Request, house: Here, user: Drawing, path: str) -> Response:
    """What the archive answers to a STOW-RS request below its root."""
    return await _passed_on(request, house.archive, STORE, _resource(path))


async def _passed_on(request: Request, archive: str, allowed: re.Pattern[str], resource: str) -> Response:
    if not archive:
        raise HTTPException(404, "The studies are in a folder: there is no archive.")
    if not allowed.fullmatch(resource):
        raise HTTPException(404)
    client: httpx.AsyncClient = request.app.state.archive_client
    headers = {name: request.headers[name] for name in ASKED if name in request.headers}
    content = None
    if request.method == "POST":
        content = request.stream()
        if "content-length" in request.headers:
            headers["content-length"] = request.headers["content-length"]
    url = f"{archive.rstrip('/')}/{resource}"
    params = httpx.QueryParams(request.url.query)
    asked = client.build_request(request.method, url, params=params, headers=headers, content=content)
    for left in reversed(range(1 if content else TRIES)):
        try:
            answer = await client.send(asked, stream=True)
            break
        except httpx.HTTPError as error:
            if left and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
                continue  # the archive closed a connection just as it was used again
            logger.warning("archive: %s", type(error).__name__)
            slow = " in time" if isinstance(error, httpx.TimeoutException) else ""
            raise HTTPException(502, f"{archive}: the archive cannot be reached{slow}") from None
    kept = {name: answer.headers[name] for name in (*TOLD, *ALSO_TOLD) if name in answer.headers}
    return StreamingResponse(_pieces(answer), answer.status_code, kept)


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
