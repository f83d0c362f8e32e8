"""A line of the log for each request: what was asked, by whom, what came of it. No query, no names of patients."""

from __future__ import annotations

import json
import logging
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}


class Journal:
    """ASGI: numbers each request, adds headers that browsers heed, and writes the line when it has been answered."""

    def __init__(self, app: ASGIApp, shared: bool = False) -> None:
        """`shared`: pages of other origins may ask, so their browsers must let them read the answers."""
        self.app = app
        self._headers = {**HEADERS, **({"Cross-Origin-Resource-Policy": "cross-origin"} if shared else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        state = scope.setdefault("state", {})
        state["request_id"] = number = uuid.uuid4().hex[:12]
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in {**self._headers, "X-Request-ID": number}.items():
                    headers[name] = value
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            line = {
                "request": number,
                "user": state.get("user", ""),
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(time.monotonic() - began, 3),
            }
            logger.info("%s", json.dumps(line))
