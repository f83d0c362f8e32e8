"""What does not belong is turned away by a real server, and what belongs does not stop the others."""

from __future__ import annotations

import concurrent.futures
import fcntl
import gzip
import http.client
import io
import json
import os
import socket
import struct
import tarfile
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests
import torch

from maml_app.cases.spec import parse_task
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import build_network
from maml_app.phantom.scene import write_cases
from maml_app.versions.registry import ModelRegistry
from tests.conftest import NETWORK, TOY
from tests.harness.server import Server
from tests.harness.waiting import until

PIECE = zlib.compressobj(9, wbits=31)
ZEROS = PIECE.compress(bytes(10**6)) + PIECE.flush()  # a million zeros in a thousand bytes
LIMIT_S = 60.0  # a server that does not answer by then hangs
BOMB_GB = 1.0  # what memory may grow by in answering something that claims more


@dataclass
class Door:
    """A running server with a model, and what it serves."""

    server: Server
    folder: Path

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    @property
    def model(self) -> Path:
        return self.folder / "models" / "toy" / "v0001" / "model.safetensors"

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        return requests.request(method, self.server.url + path, timeout=LIMIT_S, allow_redirects=False, **more)

    def raw(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict[str, Any]]:
        """A request as it is written here; its status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()

    def save(self, path: Path, case: str = "phantom_005") -> requests.Response:
        with path.open("rb") as file:
            return self.ask("PUT", f"/datastore/label?image={case}", files={"label": (path.name, file)})

    def infer(self, case: str) -> requests.Response:
        return self.ask("POST", f"/infer/toy?image={case}&output=json")

    def log(self) -> str:
        return self.server.log.read_text(encoding="utf-8", errors="replace")

    def tree(self) -> list[Path]:
        """Everything that is stored."""
        return sorted(path for path in self.studies.rglob("*"))

    def processes(self) -> list[psutil.Process]:
        assert self.server._process is not None
        return psutil.Process(self.server._process.pid).children(recursive=True)

    def training(self) -> list[psutil.Process]:
        return [one for one in self.processes() if {"monailabel.interfaces.utils.app", "train"} <= words(one)]

    def most_gb(self) -> float:
        """The most memory that the server ever held."""
        assert self.server._process is not None
        tree = [psutil.Process(self.server._process.pid), *self.processes()]
        lines = [Path(f"/proc/{one.pid}/status").read_text() for one in tree]
        peaks = [line.split()[1] for text in lines for line in text.splitlines() if line.startswith("VmHWM")]
        return max(map(int, peaks)) * 1024 / 1e9

    @contextmanager
    def held(self) -> Iterator[None]:
        """No segmentation goes on meanwhile: they wait for the lock file that training gives way by."""
        with (self.folder / "models" / "toy" / ".inference").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    spec = parse_task(TOY, "toy")
    write_cases(folder / "studies", spec, count=6, seed=3, size=20, labelled=4)
    (folder / "studies" / "task.yaml").write_text(TOY)
    torch.manual_seed(1)
    network = build_network(len(spec.modality_names), len(spec.labels) + 1, NETWORK)
    kept = Checkpoint("toy", spec.signature(), len(spec.modality_names), len(spec.labels) + 1, NETWORK, (16, 16, 16))
    ModelRegistry(folder / "models" / "toy").publish(network, kept, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_LABEL_SESSION_PATH", str(folder / "sessions"))
        conf = {"models": str(folder / "models"), "queue": "2"}
        with Server(folder / "studies", folder / "log", conf=conf, scoring=False) as server:
            yield Door(server, folder)


def words(process: psutil.Process) -> set[str]:
    """Of its command line; none of one that has ended."""
    try:
        return set(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return set()


def sentence(answer: requests.Response) -> str:
    """What an error says; each is JSON with a number that the log has too."""
    told: dict[str, str] = answer.json()
    assert set(told) == {"detail", "request"}, told
    assert told["request"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in told["detail"]
    return told["detail"]


def refused(answer: requests.Response, status: int, words: str) -> None:
    assert (answer.status_code, words in sentence(answer)) == (status, True), answer.text


# code that is sent


def test_code_that_is_sent_is_not_run(door: Door, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(witness)!r}).touch()\n".encode()
    refused(door.ask("PUT", "/session/", files={"files": ("sitecustomize.py", code)}), 415, "*.nii.gz")
    for path in (str(tmp_path), str(door.folder / "sessions")):
        refused(door.ask("POST", "/train/toy", json={"bundle_path": path}), 422, "bundle_path: no such key")
        refused(door.ask("POST", "/train/", json={"toy": {"bundle_path": path}}), 422, "bundle_path: no such key")
    assert door.ask("GET", "/train/?check_if_running=true").status_code == 404
    assert not witness.exists()


def test_a_session_is_one_image_and_tells_no_path(door: Door) -> None:
    image = (door.studies / "phantom_000" / "ct.nii.gz").read_bytes()
    told = door.ask("PUT", "/session/", files={"files": ("../../ct.nii.gz", image)}).json()
    assert str(door.folder) not in json.dumps(told)
    number = told["session_id"]
    assert door.ask("GET", f"/session/{number}").status_code == 200
    asked = {"params": json.dumps({"grid": "ct"})}
    assert door.ask("POST", f"/infer/toy?session_id={number}&output=json", data=asked).status_code == 200
    two = [("files", ("ct.nii.gz", image)), ("files", ("pet.nii.gz", image))]
    refused(door.ask("PUT", "/session/", files=two), 400, "expected one image")
    for name in ("..%2f..%2fetc", "0" * 36, "%00"):
        assert door.ask("GET", f"/session/{name}").status_code in (404, 422)
    assert door.ask("DELETE", f"/session/{number}").status_code == 200
    refused(door.ask("GET", f"/session/{number}"), 404, "There is no session")


def test_an_archive_of_files_is_not_unpacked(door: Door, tmp_path: Path) -> None:
    name = f"escaped-{uuid.uuid4().hex}"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for place in (f"../{name}", f"../../{name}", str(tmp_path / name)):
            member = tarfile.TarInfo(place)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"here"))
    for sent in ("images.tar.gz", "images.nii.gz"):
        answer = door.ask("PUT", "/session/?uncompress=true", files={"files": (sent, packed.getvalue())})
        refused(answer, 400, "expected one image, not packed")
    assert not [*door.folder.rglob(name), *tmp_path.rglob(name)]


# from elsewhere

READ, WRITE = ("GET", "/datastore/?output=all"), ("PUT", "/datastore/image/info?image=phantom_005")
CALLS = [READ, WRITE, ("POST", "/train/toy"), ("DELETE", "/train/"), ("POST", "/infer/toy?image=phantom_000")]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(call))
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://localhost.evil.example:8000"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers.items()),
)
def test_other_pages_and_other_names_are_refused(door: Door, call: tuple[str, str], headers: dict[str, str]) -> None:
    answer = door.ask(*call, headers=headers)
    assert answer.status_code == 403
    assert sentence(answer).endswith(".")
    assert not {name.lower() for name in answer.headers} & {"access-control-allow-origin", "set-cookie"}


def test_a_page_elsewhere_may_not_ask_for_permission(door: Door) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    answer = door.ask("OPTIONS", "/datastore/label", headers=headers)
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_own_pages_and_own_names_are_welcome(door: Door, name: str) -> None:
    host = f"{name}:{door.server.port}"
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert door.ask("GET", "/info/", headers=headers).status_code == 200


def test_a_form_of_another_kind_is_refused(door: Door) -> None:
    """A page elsewhere can send text/plain without asking its browser first."""
    refused(door.ask("POST", "/train/toy", data=b"{}", headers={"Content-Type": "text/plain"}), 415, "got 'text/plain'")


# models and labels


def test_models_cannot_be_sent_or_taken_away(door: Door) -> None:
    before = door.model.read_bytes()
    for method, more in (("PUT", {"files": {"file": ("model.pt", b"junk")}}), ("DELETE", {}), ("GET", {})):
        refused(door.ask(method, "/model/toy", **more), 404, "python -m maml_app models")
    assert door.model.read_bytes() == before
    assert door.infer("phantom_000").json()["model_version"] == "v0001"


def nrrd(path: Path, *lines: str, content: bytes = b"") -> Path:
    head = ["NRRD0004", "type: uint8", "dimension: 3", "sizes: 20 20 20", "space: left-posterior-superior"]
    head += ["space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)", *lines]
    path.write_bytes("\n".join(head).encode() + b"\n\n" + content)
    return path


@pytest.mark.parametrize("field", ["line skip: 1000000000000", "byte skip: 1000000000000", "byte skip: -1"])
def test_a_label_that_skips_is_refused(door: Door, tmp_path: Path, field: str) -> None:
    sent = nrrd(tmp_path / "label.nrrd", "encoding: raw", field)
    assert sent.stat().st_size < 300
    refused(door.save(sent), 400, "which is not read here")


@pytest.mark.parametrize("place", ["FIFO", "/dev/zero", "/dev/stdin", "/etc/passwd", "LIST"])
@pytest.mark.parametrize("field", ["data file", "datafile"])
def test_a_label_that_points_elsewhere_is_refused(door: Door, tmp_path: Path, place: str, field: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    target = str(tmp_path / "fifo") if place == "FIFO" else place
    refused(door.save(nrrd(tmp_path / "label.nrrd", "encoding: raw", f"{field}: {target}")), 400, "not read here")


def header_of(shape: tuple[int, int, int], path: Path) -> bytes:
    """The first bytes of a NIfTI file of this shape, placed as the image at `path`."""
    header = nib.load(path).header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    start = bytearray(header.binaryblock)
    struct.pack_into("<8h", start, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<f", start, 108, 352.0)
    start[344:348] = b"n+1\0"
    return bytes(start) + bytes(4)


def bomb(path: Path, shape: tuple[int, int, int], image: Path) -> Path:
    """A .nii.gz of less than a megabyte that becomes 729 MB."""
    path.write_bytes(gzip.compress(header_of(shape, image)) + ZEROS * 729)
    assert path.stat().st_size < 1e6
    return path


def test_an_image_that_claims_too_much_is_not_unpacked(door: Door, tmp_path: Path) -> None:
    image = door.studies / "phantom_005" / "ct.nii.gz"
    sent = bomb(tmp_path / "ct.nii.gz", (900, 900, 900), image)
    most = door.most_gb()
    refused(door.save(sent), 400, "expected a label on the grid of one of its images")
    asked = {"params": json.dumps({"grid": "ct"})}
    with sent.open("rb") as file:
        answer = door.ask("POST", "/infer/toy?output=json", data=asked, files={"file": ("ct.nii.gz", file)})
    refused(answer, 413, "million voxels")
    with sent.open("rb") as file:
        refused(door.ask("PUT", "/session/", files={"files": ("ct.nii.gz", file)}), 413, "million voxels")
    assert door.most_gb() - most < BOMB_GB / 4


def test_a_label_that_holds_more_than_it_claims_is_not_unpacked(door: Door, tmp_path: Path) -> None:
    image = door.studies / "phantom_005" / "ct.nii.gz"
    x, y, z = nib.load(image).shape
    most, before = door.most_gb(), door.tree()
    refused(door.save(bomb(tmp_path / "label.nii.gz", (x, y, z), image)), 400, "more than")
    fields = (f"sizes: {x} {y} {z}", "encoding: gzip")
    sent = nrrd(tmp_path / "label.nrrd", *fields[1:], content=ZEROS * 729)
    sent.write_bytes(sent.read_bytes().replace(b"sizes: 20 20 20", fields[0].encode()))
    assert door.save(sent).status_code == 400
    assert door.most_gb() - most < BOMB_GB / 4
    assert door.tree() == before


def test_what_is_refused_leaves_no_file(door: Door, tmp_path: Path) -> None:
    sent = tmp_path / "label.nii.gz"
    sent.write_bytes(b"junk")
    refused(door.save(sent), 400, "expected a NIfTI file")
    assert door.server._process is not None
    scratch = Path(tempfile.gettempdir()) / f"maml-{os.getuid()}" / "server"
    until(lambda: not list(scratch.glob(f"{door.server._process.pid}/request-*")), "an empty folder", LIMIT_S)  # type: ignore[union-attr]


def test_the_name_of_a_file_is_not_a_case(door: Door) -> None:
    image = (door.studies / "phantom_000" / "ct.nii.gz").read_bytes()
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        file.write(image)
        file.flush()
        for path in (file.name, file.name.replace("/", "%2F"), f"../../..{file.name}", Path(file.name).name):
            refused(door.ask("POST", f"/infer/toy?image={path}"), 404, "unknown id")
            refused(door.ask("GET", f"/datastore/image?image={path}"), 404, "unknown id")
            refused(door.ask("GET", f"/datastore/label?label={path}&tag=final"), 404, "unknown id")


# choosing and training


@pytest.mark.parametrize(
    "notes",
    [{"strategy": {"random": {"ts": "x"}}}, {"skipped": "x"}, {"a": {"b": 1}}, {"a/b": 1}, {"a": "x" * 3000}, [1], "x"],
    ids=lambda notes: json.dumps(notes)[:40],
)
def test_notes_cannot_upset_the_choice(door: Door, notes: Any) -> None:
    answer = door.ask("PUT", "/datastore/image/info?image=phantom_004", data={"info": json.dumps(notes)})
    assert answer.status_code in (400, 422)
    assert sentence(answer)
    assert door.ask("POST", "/activelearning/random", json={}).json()["id"] in ("phantom_004", "phantom_005")


def test_notes_cannot_pass_for_the_choice(door: Door) -> None:
    notes = {"id": "phantom_000", "path": "/etc/passwd", "reason": "x", "waiting": "x", "choice": "x"}
    for case in ("phantom_004", "phantom_005"):
        answer = door.ask("PUT", f"/datastore/image/info?image={case}", data={"info": json.dumps({**notes, "own": 1})})
        assert answer.status_code == 200
    chosen = door.ask("POST", "/activelearning/random", json={}).json()
    assert chosen["id"] == chosen["case"]
    assert chosen["own"] == 1
    assert not [name for name, value in notes.items() if chosen[name] == value]


def test_notes_that_are_damaged_already_do_not_upset_the_choice(door: Door) -> None:
    for content in ('{"strategy": {"random": {"ts": "x"}}}', '{"strategy": "x", "skipped": "y"}', "[[[", "\0"):
        file = door.studies / "maml_labels" / "phantom_004" / "info.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        assert door.ask("POST", "/activelearning/random", json={}).status_code == 200
    assert door.ask("GET", "/datastore/image/info?image=phantom_004").status_code == 200


def test_nothing_is_loaded_anew(door: Door) -> None:
    refused(door.ask("POST", "/reload"), 404, "restart the server instead")
    assert door.ask("POST", "/activelearning/random", json={}).status_code == 200


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"processes": 1_000_000}, "processes"),
        ({"processes": 0}, "processes"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"device": "cuda:0; rm -rf /"}, "device"),
        ({"gpus": "../../x"}, "gpus"),
        ({"nonsense": 1}, "nonsense: no such key"),
        ({"name": "x" * 1000}, "name"),
        ({"model": "\x00"}, "model"),
        ([], ""),
        ("toy", ""),
    ],
)
def test_a_training_is_told_what_it_knows_and_nothing_else(door: Door, params: Any, words: str) -> None:
    for path in ("/train/toy", "/train/"):
        refused(door.ask("POST", path, json=params), 422, words)
    assert not door.training()


def test_a_path_is_no_model(door: Door) -> None:
    for name in ("..%2f..%2fetc%2fpasswd", "%2Ftmp", "nosuch"):
        assert door.ask("POST", f"/train/{name}", json={}).status_code in (404, 405, 422)
    assert not door.training()


def test_json_that_is_deep_or_long_is_not_parsed(door: Door) -> None:
    deep = '{"a":' * 100_000
    json_body = {"Content-Type": "application/json"}
    refused(door.ask("POST", "/train/toy", data=deep, headers=json_body), 400, "brackets within brackets")
    refused(door.ask("POST", "/train/toy", data=b" " * 1_100_000, headers=json_body), 413, "expected at most 1 MB")
    info = {"info": "[" * 100_000}
    refused(door.ask("PUT", "/datastore/image/info?image=phantom_004", data=info), 400, "as a JSON mapping")


def test_a_training_that_is_only_about_to_begin_is_stopped(door: Door) -> None:
    started = door.ask("POST", "/train/toy", json={"steps": 100_000})
    assert started.status_code == 200, started.text
    refused(door.ask("POST", "/train/toy", json={"steps": 100_000}), 429, "is running already")
    stopped = door.ask("DELETE", "/train/").json()
    assert (stopped["id"], stopped["status"]) == (started.json()["id"], "STOPPED")
    until(lambda: not door.training(), "the end of the training's process", LIMIT_S)
    assert door.ask("GET", "/train/").json()["status"] == "STOPPED"
    assert door.ask("GET", "/train/?check_if_running=true").status_code == 404
    assert door.ask("DELETE", "/train/").json() is None


# one does not stop the others


def test_all_else_is_answered_while_a_segmentation_waits(door: Door, tmp_path: Path) -> None:
    image = door.studies / "phantom_005" / "ct.nii.gz"
    label = tmp_path / "label.nii.gz"
    packed = gzip.compress(header_of(nib.load(image).shape, image) + bytes(np.prod(nib.load(image).shape)))
    label.write_bytes(packed)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        with door.held():
            running = pool.submit(door.infer, "phantom_000")
            same = pool.submit(door.infer, "phantom_000")
            for method, path in (("GET", "/info/"), ("GET", "/datastore/"), ("POST", "/activelearning/first")):
                assert door.ask(method, path).status_code == 200
            assert door.save(label).status_code == 200
            assert not running.done()
            assert not same.done()
        assert running.result().status_code == 200
        assert same.result().json() == running.result().json()  # computed once: to the hundredth of a second


def test_a_full_queue_says_when_to_come_back(door: Door) -> None:
    cases = [f"phantom_00{number}" for number in (0, 1, 2)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        with door.held():
            asked = [pool.submit(door.infer, f"{case}@{name}") for case in cases for name in ("ct", "pet")]
            # one is at work and two wait
            until(lambda: sum(one.done() for one in asked) == 3, "the answer to those that do not fit", LIMIT_S)
            for one in asked:
                if one.done():
                    refused(one.result(), 503, "ask again in")
                    assert int(one.result().headers["Retry-After"]) >= 1
        assert sorted(one.result().status_code for one in asked) == [200] * 3 + [503] * 3


def test_what_nobody_waits_for_is_not_computed(door: Door) -> None:
    begins = len(door.log())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with door.held():
            client = socket.create_connection(("127.0.0.1", door.server.port), timeout=LIMIT_S)
            head = f"POST /infer/toy?image=phantom_002 HTTP/1.1\r\nHost: 127.0.0.1:{door.server.port}\r\n"
            client.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            after = pool.submit(door.infer, "phantom_000")
            client.close()
            until(lambda: '"status": 499' in door.log()[begins:], "the line of a client that left", LIMIT_S)
            assert not after.done()
        assert after.result().status_code == 200  # one after the other: the first one has ended by then
    told = door.log()[begins:]
    assert ("case phantom_000 on" in told, "case phantom_002 on" in told) == (True, False)
