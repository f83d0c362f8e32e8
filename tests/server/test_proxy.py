"""The way to the archive, before an archive that ends connections as archives do."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from maml_app.server import proxy


class Ending(socketserver.StreamRequestHandler):
    """Answers the first request of a connection, and ends it when the second one has come."""

    def handle(self) -> None:
        for turn in range(2):
            lines = list(iter(self.rfile.readline, b"\r\n"))
            if turn or not lines or lines == [b""]:
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: 2\r\n\r\n[]")
            self.wfile.flush()


class Broken(socketserver.StreamRequestHandler):
    """Ends every connection without an answer."""

    def handle(self) -> None:
        self.rfile.readline()


@pytest.fixture
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    handler = request.param
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as archive:
        archive.daemon_threads = True
        threading.Thread(target=archive.serve_forever, daemon=True).start()
        server = FastAPI()
        server.state.house = SimpleNamespace(archive=f"http://127.0.0.1:{archive.server_address[1]}/dicom-web")
        server.state.archive_client = proxy.archive_client()
        for route in proxy.router.routes:  # who may is asked elsewhere
            for needed in route.dependant.dependencies:  # type: ignore[attr-defined]
                if needed.call is not None and needed.call.__name__ != "_house":
                    server.dependency_overrides[needed.call] = lambda: None
        server.include_router(proxy.router)
        with TestClient(server) as client:
            yield client
        archive.shutdown()


@pytest.mark.parametrize("client", [Ending], indirect=True)
def test_a_connection_that_ends_as_it_is_used_again_costs_no_answer(client: TestClient) -> None:
    for _ in range(5):
        answer = client.get("/proxy/dicom/qido/studies")
        assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize("client", [Broken], indirect=True)
def test_an_archive_that_never_answers_is_told(client: TestClient) -> None:
    answer = client.get("/proxy/dicom/qido/studies")
    assert answer.status_code == 502
    assert "cannot be reached" in answer.json()["detail"]
