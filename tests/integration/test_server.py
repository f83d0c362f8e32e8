"""The loop through a real server process with the real client, on the phantom."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from monailabel.utils.others.class_utils import get_class_of_subclass_from_file

from maml_app.cases.case import FileRef
from maml_app.cases.spec import parse_task
from maml_app.imaging.files import read_image, read_label
from maml_app.imaging.volume import Grid
from maml_app.phantom.scene import make_case, write_cases
from tests.conftest import TOY
from tests.harness.server import ROOT, Server
from tests.harness.waiting import until
from tests.integration.conftest import wait_for_training

# a network of a few steps does worse than another by chance; the gate has tests of its own
PUBLISHES = TOY.replace("steps: 3", "steps: 3, tolerance: 0.99")
KILLS = int(os.environ.get("MAML_KILLS", "2"))  # 40 takes about a quarter of an hour


@dataclass
class Running:
    client: MONAILabelClient
    server: Server
    studies: Path
    models: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """As a terminal starts it, without what `maml-app serve` adds."""
    folder = tmp_path_factory.mktemp("server")
    spec = parse_task(PUBLISHES, "toy")
    write_cases(folder / "studies", spec, count=6, seed=3, size=20, labelled=4)
    (folder / "studies" / "task.yaml").write_text(PUBLISHES)
    conf = {"models": str(folder / "models")}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH")
        with Server(folder / "studies", folder / "server.log", conf=conf, scoring=False) as server:
            client = MONAILabelClient(server.url, str(folder))
            yield Running(client, server, folder / "studies", folder / "models")


def grid_of(running: Running, case: str, modality: str) -> Grid:
    return read_image(FileRef(running.studies / case / f"{modality}.nii.gz")).grid


def train(running: Running, **params: Any) -> dict[str, Any]:
    running.client.train_start("toy", {"steps": 2, **params})
    return wait_for_training(running.client)


def test_the_loop(running: Running) -> None:
    """info -> next -> infer -> save -> train -> infer, in one go, as an annotator would."""
    client = running.client
    info = client.info()
    assert info["labels"] == ["organ", "lesion"]
    model = info["models"]["toy"]
    assert (model["type"], model["labels"]) == ("segmentation", {"organ": 1, "lesion": 2})
    assert "config" not in info
    assert set(info["strategies"]) >= {"random", "first"}
    assert info["datastore"]["completed"] == 4
    assert info["train_stats"] == {"toy": {}}

    sample = client.next_sample("first", {})
    assert sample["id"] == "phantom_004"
    assert Path(sample["path"]).is_file()
    with pytest.raises(MONAILabelClientException, match="there is no model for Toy task yet"):
        client.infer("toy", sample["id"], {})

    truth = make_case(parse_task(TOY, "toy"), 3, 4, 20).label
    sent = running.studies.parent / "sent.nii.gz"
    shutil.copy(write(truth.voxels, truth.affine, sent), sent.with_name("copy.nii.gz"))
    saved = client.save_label(sample["id"], str(sent), params={"label_info": [{"name": "organ"}, {"name": "lesion"}]})
    assert saved == {"image": "phantom_004", "label": "phantom_004@final-0001"}
    assert client.next_sample("random", {})["id"] == "phantom_005"

    status = train(running)
    assert status["status"] == "DONE", status
    lines = "\n".join(status["details"])
    assert "5 of 6 cases have a final label" in lines
    assert "train 2/2, epoch" in lines
    assert "published v0001" in lines

    for modality in ("ct", "pet", "mr_t1"):
        file, params = client.infer("toy", f"phantom_005@{modality}", {"result_extension": ".nrrd"})
        assert file.endswith(".nrrd")
        assert read_label(Path(file)).grid.same_as(grid_of(running, "phantom_005", modality))
        assert (params["model_version"], params["modalities_missing"]) == ("v0001", [])
    assert client.info()["train_stats"]["toy"]["version"] == "v0001"

    # an image that is in no study, sent into a session as Slicer does, or along with the request
    sent_image = str(running.studies / "phantom_000" / "pet.nii.gz")
    session = client.create_session(sent_image)["session_id"]
    file, params = client.infer("toy", "", {"grid": "pet"}, session_id=session)
    assert params["modalities_used"] == ["pet"]
    assert read_label(Path(file)).grid.same_as(grid_of(running, "phantom_000", "pet"))
    file, params = client.infer("toy", "", {"grid": "pet"}, file=sent_image)
    assert params["modalities_missing"] == ["ct", "mr_t1"]

    # saved again: both versions stay, and the next training takes the newest; every answer meanwhile names one
    # version and is that version's mask
    assert client.save_label("phantom_004", str(sent))["label"] == "phantom_004@final-0001"  # unchanged: not twice
    changed = truth.voxels.copy()
    changed[0, 0, 0] = 1
    write(changed, truth.affine, sent)
    assert client.save_label("phantom_004", str(sent))["label"] == "phantom_004@final-0002"
    stored = sorted(path.name for path in (running.studies / "maml_labels" / "phantom_004").glob("*.nii.gz"))
    assert stored == ["final-0001.nii.gz", "final-0002.nii.gz"]
    masks = answers_during_a_training(client)
    assert sorted(masks) == ["v0001", "v0002"]
    assert sum(len(answers) for answers in masks.values()) >= 3
    for answers in masks.values():
        # the number of threads changes while a training runs: a voxel on the edge may fall either way
        assert all((answer != answers[0]).mean() < 1e-3 for answer in answers)
    _, params = client.infer("toy", "phantom_003", {"save_label": True})
    assert (params["model_version"], params["modalities_missing"]) == ("v0002", ["ct"])
    report = json.loads((running.models / "toy" / "v0002" / "report.json").read_text())
    assert report["warm_start"] is True
    assert {**report["trained_on"], **report["validated_on"]}["phantom_004"] == "final-0002"
    # a proposal that was stored is no label
    assert (running.studies / "maml_labels" / "phantom_003" / "original-0001.nii.gz").is_file()
    assert client.info()["datastore"]["completed"] == 5


def answers_during_a_training(client: MONAILabelClient) -> dict[str, list[Any]]:
    """The masks of a case before, while and after a new version is trained and published, by the version they name."""
    masks: dict[str, list[Any]] = {}

    def ask() -> None:
        file, params = client.infer("toy", "phantom_000", {"result_extension": ".nii.gz"})
        masks.setdefault(params["model_version"], []).append(read_label(Path(file)).voxels)

    def ended() -> bool:
        ask()
        return client.train_status()["status"] not in ("SUBMITTED", "RUNNING")

    ask()
    client.train_start("toy", {"steps": 20})
    until(ended, "the end of the training", 900)
    assert client.train_status()["status"] == "DONE"
    ask()
    return masks


def write(voxels: Any, affine: Any, path: Path) -> Path:
    from maml_app.imaging.files import write_label

    write_label(path, voxels, affine)
    return path


def request(running: Running, method: str, path: str) -> tuple[int, str]:
    call = urllib.request.Request(running.server.url + path, method=method)
    try:
        with urllib.request.urlopen(call, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/datastore/image?image=../../etc/passwd", 404, "unknown id"),
        ("GET", "/datastore/image/info?image=nobody", 404, "unknown id 'nobody'"),
        ("GET", "/datastore/label?label=phantom_000&tag=../x", 404, "expected a label"),
        ("DELETE", "/datastore/label?id=phantom_000&tag=final", 405, "labels are only ever added"),
        ("DELETE", "/datastore/image?id=phantom_000", 405, "labels are only ever added"),
        (
            "POST",
            "/infer/nosuch?image=phantom_000",
            404,
            "expected a model of ['toy', 'toy_clicks', 'toy_scribbles'], got 'nosuch'",
        ),
        ("POST", "/infer/toy?image=nobody", 404, "unknown id 'nobody'"),
        ("POST", "/infer/toy?image=%2Fetc%2Fpasswd", 404, "unknown id '/etc/passwd'"),
    ],
)
def test_mistakes_are_answered_and_the_server_stays(
    running: Running, method: str, path: str, status: int, message: str
) -> None:
    got, body = request(running, method, path)
    assert (got, message in body) == (status, True), body
    assert request(running, "GET", "/info/")[0] == 200


def test_what_is_no_label_is_refused_and_nothing_written(running: Running, tmp_path: Path) -> None:
    def stored() -> list[str]:
        return sorted(str(path) for path in running.studies.rglob("*"))

    before = stored()
    text = tmp_path / "label.nii.gz"
    text.write_text('{"detail": "Internal Server Error"}')
    with pytest.raises(MONAILabelClientException, match="expected a NIfTI file"):
        running.client.save_label("phantom_005", str(text))
    other = write(np.ones((5, 5, 5)), np.eye(4), tmp_path / "other.nii.gz")
    with pytest.raises(MONAILabelClientException, match="expected a label on the grid of one of its images"):
        running.client.save_label("phantom_005", str(other))
    image = nib.load(running.studies / "phantom_005" / "ct.nii.gz")
    fitting = write(np.ones(image.shape), image.affine, tmp_path / "fitting.nii.gz")
    with pytest.raises(MONAILabelClientException, match="expected a label tag"):
        running.client.save_label("phantom_005", str(fitting), tag="../../x")
    assert stored() == before


def stop_a_training(running: Running) -> None:
    before = running.client.info()["train_stats"]["toy"].get("version")
    running.client.train_start("toy", {"steps": 100000})

    def stepped() -> bool:
        return any(line.startswith("train ") for line in running.client.train_status().get("details", []))

    until(stepped, "a step of the training")
    running.client.train_stop()
    assert running.client.train_status()["status"] == "STOPPED"
    assert running.client.info()["train_stats"]["toy"].get("version") == before


def training_processes(running: Running) -> list[psutil.Process]:
    assert running.server._process is not None
    children = psutil.Process(running.server._process.pid).children(recursive=True)
    found = []
    for child in children:
        with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            if "monailabel.interfaces.utils.app" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_training_that_is_stopped_or_killed_at_any_moment_is_told_and_the_server_answers(running: Running) -> None:
    """SIGKILL, as by the system when memory runs out, of the server's own training process, publishing included."""
    client = running.client
    if client.info()["train_stats"]["toy"].get("version") is None:
        train(running)
    stop_a_training(running)
    moments = random.Random(5)
    for number in range(KILLS):
        # every second one is so short that it may be publishing, or be done
        client.train_start("toy", {"steps": 100000 if number % 2 else 10})
        until(lambda: training_processes(running), "the training's process")
        time.sleep(moments.uniform(0.0, 12.0))
        for process in training_processes(running):
            process.kill()
        assert wait_for_training(client)["status"] in (("ERROR",) if number % 2 else ("ERROR", "DONE"))
        served = client.info()["train_stats"]["toy"]["version"]
        assert served in {path.name for path in (running.models / "toy").glob("v*")}
        file, params = client.infer("toy", "phantom_000", {})
        assert params["model_version"] == served
        assert read_label(Path(file)).grid.same_as(grid_of(running, "phantom_000", "ct"))
        last = client.info()["train_stats"]["toy"]["last_run"]
        assert last["state"] in ("killed", "done", "failed")  # done or failed: of the run before, if it never began
    assert train(running)["status"] == "DONE"  # the next one starts clean
    assert not list((running.models / "toy").glob(".work-*"))
    assert not list((running.models / "toy" / "prepared").glob(".*"))


def test_a_training_that_cannot_start_gives_its_reason(running: Running) -> None:
    with pytest.raises(MONAILabelClientException, match=r"steps: .*, got .*many"):
        train(running, steps="many")


def test_a_server_that_cannot_start_gives_its_reason(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["monailabel", "start_server", "--app", "maml_app", "--studies", str(tmp_path / "studies")]
    done = subprocess.run(
        [*command, "--host", "127.0.0.1", "--port", "0"],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "expected files that match one of the tasks" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "apps").glob("*/main.py")))
def test_each_shipped_app_is_loaded_with_its_own_task(tmp_path: Path, name: str) -> None:
    """The app's folder holds the task; the studies alone would not tell."""
    folder = ROOT / "apps" / name
    app = get_class_of_subclass_from_file(f"{folder}.main", str(folder / "main.py"), "MONAILabelApp")
    loaded = app(app_dir=str(folder), studies=str(tmp_path), conf={"models": str(tmp_path / "models")})
    assert list(loaded.info()["models"]) == [name, f"{name}_clicks", f"{name}_scribbles"]
