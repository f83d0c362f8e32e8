"""From where a request may come: this machine or a user who logs in, addressed to us, from a page of ours."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from maml_app.errors import SettingsError
from maml_app.server.answers import error

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
BODIES = ("application/json", "multipart/form-data", "application/x-www-form-urlencoded")
DICOM_BODIES = ("multipart/related", "application/dicom")


@dataclass(frozen=True)
class Policy:
    """Who is let in.

    Attributes:
        anyone: clients on other machines too.
        hosts: names and addresses under which this server is reached, besides its own socket's.
        origins: pages of other addresses that may ask, as browsers name them: https://viewer.example:8443
    """

    anyone: bool
    hosts: frozenset[str]
    origins: frozenset[str]


def policy(origins: Iterable[str], anyone: bool, listening: str = "") -> Policy:
    """The policy for `--conf origins` and the address of `--host`.

    Raises:
        SettingsError: an origin that is none.
    """
    kept = set()
    for origin in origins:
        parts = _split(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise SettingsError(f"--conf origins: expected addresses such as https://viewer.example, got {origin!r}")
        kept.add(f"{parts.scheme}://{parts.netloc.lower()}")
    hosts = {str(urlsplit(origin).hostname) for origin in kept} | {listening.lower()} | LOOPBACK
    return Policy(anyone, frozenset(hosts - {"", "0.0.0.0", "::"}), frozenset(kept))


class Guard:
    """ASGI: refuses what does not belong with 403, and bodies of other kinds with 415.

    A page of another site that is open in the user's browser can send requests here (cross-site), or have its own name
    point here (rebinding): the first shows in Origin, the second in Host.
    """

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            status, text = self._wrong(scope)
            if status:
                await error(Request(scope), status, text)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _wrong(self, scope: Scope) -> tuple[int, str]:
        headers = Headers(scope=scope)
        client = (scope.get("client") or ("", 0))[0]
        if client and not self.policy.anyone and not is_here(client):
            return 403, (
                "This server answers its own machine only. To open it, give it accounts (--conf users FILE), or start "
                "it with --conf open yes."
            )
        host = headers.get("host", "")
        if not self._ours(host, scope):
            return 403, (
                f"This server is not known as {host[:100]!r}. If it is meant to be, start it with --conf origins "
                "http://NAME:PORT."
            )
        origin = headers.get("origin")
        # the scheme may differ: a proxy before the server speaks https
        same = origin is not None and _split(origin).netloc.lower() == host.lower()
        if origin is not None and not same and origin.lower() not in self.policy.origins:
            return 403, f"Pages of {origin[:100]!r} may not ask here; --conf origins lists those that may."
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        if origin is None and site == "cross-site" and (mode != "navigate" or scope["method"] != "GET"):
            return 403, "Pages of other sites may not ask here; --conf origins lists those that may."
        return self._wrong_body(scope, headers)

    @staticmethod
    def _wrong_body(scope: Scope, headers: Headers) -> tuple[int, str]:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        allowed = DICOM_BODIES if scope["path"].startswith("/proxy/") else BODIES
        if empty or kind in allowed:
            return 0, ""
        return 415, f"expected a body of {' or '.join(allowed)}, got {kind[:60] or 'none named'!r}"

    def _ours(self, host: str, scope: Scope) -> bool:
        name = _split(f"//{host}").hostname or ""
        if name in self.policy.hosts:
            return True
        own = (scope.get("server") or ("", 0))[0]
        try:
            return ipaddress.ip_address(name) == ipaddress.ip_address(own)
        except ValueError:
            return False


def _split(address: str) -> SplitResult:
    """The parts of an address; all empty if it is none."""
    try:
        return urlsplit(address)
    except ValueError:  # as http://[
        return urlsplit("")


def is_here(client: str) -> bool:
    """Whether an address is of this machine's loopback."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
