"""A server at the other end that is no DICOMweb archive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from maml_app.errors import ArchiveError
from maml_app.stores.pacs import Pacs

BODIES = {
    "/html": (200, "text/html", b"<html>a page of another program</html>"),
    "/json": (200, "application/dicom+json", b'[{"0020000D": {"vr": "UI"'),
    "/list": (200, "application/dicom+json", b'["no", "datasets"]'),
    "/broken": (500, "text/plain", b"database is locked"),
}


@pytest.fixture
def address() -> Iterator[str]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = next(value for key, value in BODIES.items() if self.path.startswith(key))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/html", "/json", "/list"])
def test_answers_that_are_no_dicom_are_one_message(address: str, path: str) -> None:
    with pytest.raises(
        ArchiveError, match=rf"{address}{path}: listing series failed: expected DICOM, got something else"
    ):
        Pacs(f"{address}{path}/").series()


@pytest.mark.parametrize("url", ["https://", "http://["])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ArchiveError, match=r"expected an archive's address such as http://.*, got 'http"):
        Pacs(url)


def test_a_failing_server_is_quoted(address: str) -> None:
    with pytest.raises(ArchiveError, match="listing series failed: it answered 500 database is locked"):
        Pacs(f"{address}/broken").series()


def test_bytes_that_are_no_image_are_told(address: str) -> None:
    with pytest.raises(ArchiveError, match=r"downloading series 1\.2 failed: expected DICOM"):
        Pacs(f"{address}/html").images("1.1", "1.2")
    with pytest.raises(ArchiveError, match=r"reading the header of 1\.3 failed: expected DICOM"):
        Pacs(f"{address}/json").header("1.1", "1.2", "1.3")
