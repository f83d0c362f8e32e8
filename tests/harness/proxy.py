"""A DICOMweb server of other manners: a proxy before a real archive that behaves as some servers do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

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


class Proxy:
    """Hands requests to `url`, through a manner: a function of the request and of what asks the archive."""

    def __init__(self, url: str, manner: Manner) -> None:
        session = requests.Session()

        def onward(asked: Asked, method: str = "GET", body: bytes = b"", kind: str = "", accept: str = JSON) -> Answer:
            address = f"{url}{asked.path}?{urlencode(asked.query)}"
            headers = {"Accept": accept, **({"Content-Type": kind} if kind else {})}
            found = session.request(method, address, data=body, headers=headers, timeout=60)
            return Answer(found.status_code, found.content, {"Content-Type": found.headers.get("Content-Type", JSON)})

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET", b"")

            def do_POST(self) -> None:
                self._answer("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def _answer(self, method: str, body: bytes) -> None:
                parts = urlsplit(self.path)
                asked = Asked(parts.path, dict(parse_qsl(parts.query)))
                kind, accept = self.headers.get("Content-Type", ""), self.headers.get("Accept", JSON)
                answer = manner(asked, lambda one: onward(one, method, body, kind, accept))
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
