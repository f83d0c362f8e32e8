"""Errors as JSON: `detail`, one sentence, and `request`, by which the log can be searched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from maml_app.errors import ConflictError, MamlError
from maml_app.server.device import Gone
from maml_app.server.forms import sentence

logger = logging.getLogger(__name__)

# why something that MONAI Label has is not offered here, by the beginning of its path
CLOSED = {
    "/datastore": "studies and labels are only ever added here; to correct a label save it again",
    "/model": "models are shown and changed with `python -m maml_app models`",
    "/batch": "segment many cases with `python -m maml_app infer`",
    "/session": "a session is made by sending one image to PUT /session/",
    "/reload": "restart the server instead",
    "/logs": "the end of the log is at GET /logs/",
    "/scoring": "the server scores cases by itself",
    "/proxy": "only QIDO, WADO and STOW requests of the archive are passed on",
}


def error(
    request: Request,
    status: int,
    detail: str,
    headers: dict[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> Response:
    """An error as JSON, with `more` for a client that can read it."""
    number = getattr(request.state, "request_id", "")
    headers = {**(headers or {}), "X-Request-ID": number}
    return JSONResponse({**(more or {}), "detail": detail, "request": number}, status, headers)


async def _maml(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, MamlError)
    logger.warning("%s: %s", type(problem).__name__, problem)
    more = problem.details if isinstance(problem, ConflictError) else None
    return error(request, problem.status, str(problem), more=more)


async def _http(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    path = request.url.path
    detail = str(problem.detail)
    if problem.status_code in (404, 405) and detail == HTTPStatus(problem.status_code).phrase:
        why = next((text for start, text in CLOSED.items() if path.startswith(start)), "docs/security.md lists what is")
        detail = f"{request.method} {path[:100]} is not offered: {why}."
    if problem.status_code == 401 and request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        asked = f"{path}?{request.url.query}" if request.url.query else path
        return RedirectResponse(f"/login?next={quote(asked)}", 303)
    return error(request, problem.status_code, detail, dict(problem.headers or {}))


async def _invalid(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, RequestValidationError)
    return error(request, 422, sentence(problem.errors()))


async def _gone(request: Request, problem: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the log tells


async def _bug(request: Request, problem: Exception) -> Response:
    number = getattr(request.state, "request_id", "")
    return error(request, 500, f"An error of the server, not of the request; its log has it under {number}.")


def add_handlers(server: FastAPI) -> None:
    """All errors of the application as JSON."""
    server.add_exception_handler(MamlError, _maml)
    server.add_exception_handler(HTTPException, _http)
    server.add_exception_handler(RequestValidationError, _invalid)
    server.add_exception_handler(Gone, _gone)
    server.add_exception_handler(Exception, _bug)
