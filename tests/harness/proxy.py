"""A DICOMweb server of other manners: a proxy before a real archive that behaves as some servers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from tests.harness.local import LocalServer, Request

JSON = "application/dicom+json"


@dataclass
class Asked:
    """A request to the proxy: its path below the service, and its query."""

    path: str
    query: dict[str, str]

    @property
    def is_list(self) -> bool:
        return self.path.split("/")[-1] in ("studies", "series", "instances")


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[dict[str, object]]:
        content = json.loads(self.body) if self.body else []
        return list(content)


Manner = Callable[[Asked, Callable[[Asked], Answer]], Answer]


class Proxy(LocalServer):
    """Hands requests to `url`, through a manner: a function of the request and of what asks the archive."""

    def __init__(self, url: str, manner: Manner) -> None:
        session = requests.Session()

        def onward(asked: Asked, method: str = "GET", body: bytes = b"", kind: str = "", accept: str = JSON) -> Answer:
            address = f"{url}{asked.path}?{urlencode(asked.query)}"
            headers = {"Accept": accept, **({"Content-Type": kind} if kind else {})}
            found = session.request(method, address, data=body, headers=headers, timeout=60)
            return Answer(found.status_code, found.content, {"Content-Type": found.headers.get("Content-Type", JSON)})

        def answer(request: Request) -> tuple[int, Mapping[str, str], bytes]:
            parts = urlsplit(request.path)
            asked = Asked(parts.path, dict(parse_qsl(parts.query)))
            kind, accept = request.headers.get("Content-Type", ""), request.headers.get("Accept", JSON)
            found = manner(asked, lambda one: onward(one, request.method, request.body, kind, accept))
            return found.status, found.headers, found.body

        super().__init__(answer)
