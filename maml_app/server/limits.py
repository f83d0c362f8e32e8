"""How much a request may bring: bytes, brackets, and time."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maml_app.server.answers import error
from maml_app.server.forms import DEEPEST, LONGEST_JSON, depth

SLOWEST_S = 30.0  # between two pieces of a body


class Limits:
    """ASGI: bodies up to `upload_mb` where files are sent, up to 1 MB else; refused with 413, 408 or 400.

    JSON is held here until it is whole, so that its depth is known before anything parses it.
    """

    def __init__(self, app: ASGIApp, upload_mb: float) -> None:
        self.app = app
        self.upload_bytes = int(upload_mb * 1e6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), False
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        limit = self.upload_bytes if kind.startswith(("multipart/", "application/dicom")) else LONGEST_JSON

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            body = _Body(receive, limit, headers.get("content-length", "0"))
            # some clients name a body's type where they send none
            whole = kind == "application/json" and scope["method"] in ("POST", "PUT")
            await self.app(scope, await _whole_json(body) if whole else body, sending)
        except HTTPException as refused:
            if not started:
                close = {"Connection": "close"}
                await error(Request(scope), refused.status_code, refused.detail, close)(scope, receive, send)


class _Body:
    """ASGI's receive, up to a limit. Raises HTTPException: 413 it is larger, 408 nothing more of it comes."""

    def __init__(self, receive: Receive, limit: int, declared: str) -> None:
        self._receive = receive
        self._limit = limit
        self._taken, self._ended = 0, False
        if not declared.isdecimal() or int(declared) > limit:
            raise HTTPException(413, f"expected at most {limit / 1e6:g} MB, got {declared[:20]} bytes")

    async def __call__(self) -> Message:
        if self._ended:
            return await self._receive()  # tells when the client leaves
        try:
            message = await asyncio.wait_for(self._receive(), SLOWEST_S)
        except TimeoutError:
            raise HTTPException(408, f"nothing more of the request came for {SLOWEST_S:g} s") from None
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self._taken > self._limit:
                raise HTTPException(413, f"expected at most {self._limit / 1e6:g} MB, got more")
        return message


async def _whole_json(taking: Receive) -> Receive:
    body, first = b"", True
    while True:
        message = await taking()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    if depth(body) > DEEPEST:
        raise HTTPException(400, f"expected JSON of at most {DEEPEST} brackets within brackets, got more")

    async def again() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await taking()

    return again
