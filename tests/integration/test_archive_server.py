"""The plain command on a DICOMweb address: a real server, a real Orthanc, the real client."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from pydicom.uid import generate_uid

from maml_app.cases.spec import TaskSpec
from maml_app.imaging.files import read_label, write_label
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.volume import Volume
from maml_app.phantom.dicom import write_series
from tests.harness.server import Server, ServerError
from tests.imaging.objects import tell
from tests.integration.conftest import QUICK, Archive, wait_for_training


@dataclass
class Running:
    client: MONAILabelClient
    server: Server
    archive: Archive
    models: Path


@pytest.fixture(scope="module")
def running(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "task.yaml").write_text(QUICK)
    conf = {"task": str(folder / "task.yaml"), "models": str(folder / "models"), "cache": str(folder / "cache")}
    conf["engine"] = "openvino"
    with Server(archive.url, folder / "server.log", conf=conf, host=None, scoring=False) as server:
        client = MONAILabelClient(server.url, str(folder))
        yield Running(client, server, archive, folder / "models")
        assert "OpenVINO answers for the modalities [0, 1, 2]" in server.log.read_text()


def train(running: Running, **params: Any) -> str:
    running.client.train_start("toy", params)
    status = wait_for_training(running.client)
    assert status["status"] == "DONE", status
    return "\n".join(status["details"])


@pytest.fixture(scope="module")
def trained(running: Running, taught: Path) -> Running:
    """From here on it has a model."""
    shutil.copytree(taught / "toy", running.models / "toy", dirs_exist_ok=True)
    return running


def infer(running: Running, series: str) -> tuple[Volume, dict[str, Any]]:
    file, params = running.client.infer("toy", series, {"result_extension": ".nrrd"})
    return read_label(Path(file)), params


def test_info_and_next_name_the_study_and_its_reference_series(running: Running) -> None:
    info = running.client.info()
    assert (info["datastore"]["total"], info["datastore"]["completed"]) == (5, 3)
    sample = running.client.next_sample("random", {})
    number = next(n for n in (3, 4) if sample["StudyInstanceUID"] == running.archive.study_uid(n))
    reference = "pet" if number == 3 else "ct"
    assert sample["SeriesInstanceUID"] == running.archive.uid(number, reference)
    assert sample["PatientID"] == f"phantom_00{number}-3"


def test_clicks_find_a_lesion_before_there_is_a_model(running: Running) -> None:
    """As 3D Slicer's code sends them: voxel indices of the image it shows, here an oblique series."""
    case = running.archive.studies[4][1]
    model = running.client.info()["models"]["toy_clicks"]
    assert (model["type"], list(model["labels"])) == ("deepgrow", ["organ", "lesion"])
    for modality in ("mr_t1", "pet"):
        grid = case.images[modality].grid
        wanted = resample_label(case.label.voxels, case.label.grid, grid) == 2
        places = np.argwhere(wanted)
        middle = places[np.argmin(np.linalg.norm(places - places.mean(axis=0), axis=1))]
        params = {"foreground": [middle.tolist()], "label": "lesion", "result_extension": ".nrrd"}
        file, told = running.client.infer("toy_clicks", running.archive.uid(4, modality), params)
        mask = read_label(Path(file))
        assert mask.grid.same_as(grid)
        assert set(np.unique(mask.voxels)) == {0, 1}
        assert mask.voxels[tuple(middle)] == 1
        assert told["gained_ml"] == pytest.approx(mask.voxels.sum() * grid.voxel_ml, abs=0.01)
        centre = grid.affine[:3, :3] @ (np.argwhere(mask.voxels).mean(axis=0) - middle)
        assert np.linalg.norm(centre) < 15
        # a click outside takes its surroundings away again
        edge = places[np.argmax(np.linalg.norm(places - middle, axis=1))]
        both = {**params, "background": [edge.tolist()]}
        file, _ = running.client.infer("toy_clicks", running.archive.uid(4, modality), both)
        assert read_label(Path(file)).voxels[tuple(edge)] == 0
    url = f"{running.server.url}/infer/toy_clicks"
    for sent, sentence in (
        ({}, "expected clicks: foreground, background, or both"),
        ({"foreground": [[900, 1, 1]]}, "expected clicks and scribbles where the images show something"),
        ({"foreground": [[1, 1, 1]], "label": "spleen"}, "expected a label of"),
    ):
        query = {"image": running.archive.uid(4, "ct")}
        answer = requests.post(url, {"params": json.dumps(sent)}, params=query, timeout=120)
        assert answer.status_code in (400, 404)
        assert sentence in answer.json()["detail"]


def test_scribbles_mend_the_label_that_is_sent_along(running: Running, tmp_path: Path) -> None:
    """As 3D Slicer's code sends them: all segments in one labelmap on the image it shows, here an oblique series."""
    case = running.archive.studies[4][1]
    model = running.client.info()["models"]["toy_scribbles"]
    assert (model["type"], list(model["labels"])) == ("scribbles", ["organ", "lesion"])
    series, grid = running.archive.uid(4, "mr_t1"), case.images["mr_t1"].grid
    truth = resample_label(case.label.voxels, case.label.grid, grid)
    # segments in the viewer's order, numbered from 1; scribbles over everything else
    names = ["lesion", "organ", "background_scribbles", "foreground_scribbles"]
    lesion, organ, against, scribble = range(1, 5)
    labelmap = np.where(truth == 1, organ, 0).astype(np.uint8)
    places = np.argwhere(truth == 2)
    middle = places[np.argmin(np.linalg.norm(places - places.mean(axis=0), axis=1))]
    drawn = places[(places[:, 1:] == middle[1:]).all(axis=1)][1:-1]  # a row of the lesion, not up to its border
    labelmap[tuple(drawn.T)] = scribble
    labelmap[:3, :3, :3] = lesion  # drawn with the brush where nothing is
    params = {
        "grid": "reference",
        "roi": [],
        "label_info": [{"name": name, "id": number} for number, name in enumerate(names, start=1)],
        "selected_label_name": "lesion",
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
    }

    def sent(labelmap: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        file = tmp_path / "scribbles.nii.gz"
        write_label(file, labelmap, grid.affine)
        answer, told = running.client.infer("toy_scribbles", series, params, str(file))
        mask = read_label(Path(answer))
        assert told["label_names"] == {"lesion": 1}
        assert mask.grid.same_as(grid)
        assert set(np.unique(mask.voxels)) == {0, 1}
        return np.asarray(mask.voxels == 1)

    def exported(mask: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What is sent the next time: the answer is in the segment, the scribbles are over it."""
        after = np.where(mask, lesion, np.where(before == lesion, 0, before))
        return np.where(before >= against, before, after).astype(np.uint8)

    found = sent(labelmap)
    assert found[tuple(drawn.T)].all()
    assert found[:3, :3, :3].all()
    assert not found[labelmap == organ].any()
    near = found.copy()
    near[:3, :3, :3] = False
    off = grid.affine[:3, :3] @ (np.argwhere(near).mean(axis=0) - places.mean(axis=0))
    assert np.linalg.norm(off) < 15
    assert (near & (truth == 2)).sum() > 0.5 * len(places)
    labelmap = exported(found, labelmap)
    np.testing.assert_array_equal(sent(labelmap), found)  # all again: nothing creeps
    labelmap[1, 1, 0:3] = against
    without = sent(labelmap)
    assert not without[1, 1, 0:3].any()
    assert not (without & ~found).any()
    np.testing.assert_array_equal(without[3:], found[3:])
    labelmap = exported(without, labelmap)
    np.testing.assert_array_equal(sent(labelmap), without)


def test_scribbles_that_cannot_be_understood_are_refused(running: Running, tmp_path: Path) -> None:
    series, grid = running.archive.uid(4, "mr_t1"), running.archive.studies[4][1].images["mr_t1"].grid
    labelmap = np.zeros(grid.shape, np.uint8)
    labelmap[4, 4, 4] = 2
    known = [{"name": "lesion", "id": 1}, {"name": "foreground_scribbles", "id": 2}]
    elsewhere = grid.affine @ np.diag([1.0, 1.0, 1.2, 1.0])
    for drawn, affine, told, sentence in (
        (None, None, {"label_info": known}, "expected a labelmap with scribbles in the form's file label, got none"),
        (labelmap, grid.affine, {"label_info": known, "selected_label_name": "spleen"}, "expected a label of"),
        (labelmap * 0, grid.affine, {"label_info": known}, "expected scribbles in the labelmap"),
        (labelmap, grid.affine, {"label_info": known[:1]}, "expected label_info to name every value"),
        (labelmap, grid.affine, {"label_info": [{"id": 2}]}, "name: it is missing"),
        (labelmap, elsewhere, {"label_info": known}, "expected the label where mr_t1 lies"),
        (labelmap[:-1], grid.affine, {"label_info": known}, "expected a label on the grid of one of its images"),
    ):
        files = {}
        if drawn is not None and affine is not None:
            write_label(tmp_path / "bad.nii.gz", drawn, affine)
            files = {"label": ("bad.nii.gz", (tmp_path / "bad.nii.gz").read_bytes())}
        params = {"params": json.dumps({"selected_label_name": "lesion", **told})}
        url = f"{running.server.url}/infer/toy_scribbles?image={series}"
        answer = requests.post(url, params, files=files, timeout=120)
        assert 400 <= answer.status_code < 500, answer.text
        assert sentence in answer.json()["detail"]


def test_every_series_gets_the_same_finding_on_its_own_grid(trained: Running) -> None:
    archive = trained.archive
    masks = {name: infer(trained, archive.uid(4, name))[0] for name in ("ct", "pet", "mr_t1")}
    for name, mask in masks.items():
        truth = archive.studies[4][1].images[name].grid
        assert mask.grid.same_as(truth)
        assert mask.voxels.any()
    fine = masks["ct"].grid
    on_fine = {name: resample_label(mask.voxels, mask.grid, fine) for name, mask in masks.items()}
    inside = np.ones(fine.shape, bool)
    for one in on_fine.values():
        # coarse voxels of pet round the borders
        both = ((one > 0) & (on_fine["ct"] > 0) & inside).sum()
        assert 2 * both / ((one > 0).sum() + (on_fine["ct"] > 0).sum()) > 0.85
    _, params = infer(trained, archive.uid(3, "mr_t1"))
    assert (params["modalities_used"], params["modalities_missing"]) == (["pet", "mr_t1"], ["ct"])


def test_saved_corrected_and_trained_on(trained: Running, tmp_path: Path) -> None:
    client, archive = trained.client, trained.archive
    mask, _ = infer(trained, archive.uid(4, "mr_t1"))
    corrected = mask.voxels.copy()
    corrected[2:5, 2:4, 1] = 2
    write_label(tmp_path / "label.nii.gz", corrected, mask.affine)
    names = [{"name": "organ", "idx": 1}, {"name": "lesion", "idx": 2}]
    saved = client.save_label(archive.uid(4, "mr_t1"), str(tmp_path / "label.nii.gz"), params={"label_info": names})
    assert "@final-0001-" in saved["label"]
    assert client.info()["datastore"]["completed"] == 4
    label_id = f"{saved['label']}"
    answer = requests.get(f"{client._server_url}/datastore/label", {"label": label_id, "tag": "final"}, timeout=60)
    (tmp_path / "back.nii.gz").write_bytes(answer.content)
    np.testing.assert_array_equal(read_label(tmp_path / "back.nii.gz").voxels, corrected)
    # it is a SEG in the archive, drawn on this series
    rows = requests.get(
        f"{archive.url}/series", {"Modality": "SEG", "StudyInstanceUID": archive.study_uid(4)}, timeout=60
    ).json()
    assert len(rows) == 1
    log = train(trained, steps=2)
    assert "4 of 5 cases have a final label" in log
    assert re.search("published v0002|worse than v0001", log)


def test_a_proposal_may_be_stored_and_is_no_label(trained: Running) -> None:
    before = trained.client.info()["datastore"]["completed"]
    url = f"{trained.server.url}/infer/toy"
    answer = requests.post(
        url,
        {"params": json.dumps({"save_label": True})},
        params={"image": trained.archive.uid(3, "pet"), "output": "json"},
        timeout=120,
    )
    assert answer.ok, answer.text
    store = trained.client.info()["datastore"]
    assert (store["completed"], store["label_tags"].get("original")) == (before, 1)


def test_the_proxy_keeps_the_query(running: Running) -> None:
    patient = "phantom_001-3"
    url = f"{running.server.url}/proxy/dicom/qido/studies"
    rows = requests.get(url, {"PatientID": patient}, timeout=60).json()
    assert [row["00100020"]["Value"] for row in rows] == [[patient]]
    assert len(requests.get(url, {"limit": 2}, timeout=60).json()) == 2
    image = f"studies/{running.archive.study_uid(1)}/series/{running.archive.uid(1, 'ct')}/metadata"
    assert len(requests.get(f"{running.server.url}/proxy/dicom/wado/{image}", timeout=60).json()) == 23


def test_a_server_started_without_host_answers_this_machine_only(running: Running) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it tells this machine's address
            address = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no other address than loopback")
    if address.startswith("127."):
        pytest.skip("this machine has no other address than loopback")
    answer = requests.get(f"http://{address}:{running.server.port}/info/", timeout=60)
    assert answer.status_code == 403
    assert "answers its own machine only" in answer.json()["detail"]


def test_bad_requests_get_one_message(running: Running) -> None:
    url = running.server.url
    localizer = running.archive.studies[0][0].extra[0][0].SeriesInstanceUID
    refused = {
        f"/infer/toy?image={localizer}&output=image": (404, "cannot be segmented: localizer"),
        "/infer/toy?image=1.2.3&output=image": (404, "unknown id '1.2.3'"),
    }
    for path, (status, message) in refused.items():
        answer = requests.post(f"{url}{path}", timeout=60)
        assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
    series = running.archive.uid(0, "ct")
    info = requests.get(f"{url}/maml/series/{series}", timeout=60).json()
    assert len(info["slices"]) == 23
    good = {"slices": json.dumps(info["slices"])}
    voxels = np.zeros(32 * 32 * 23, np.uint8).tobytes()
    wrong: list[tuple[bytes, dict[str, str], str]] = [
        (voxels[:-1], good, "voxels (32 x 32 x 23)"),
        (voxels, {"slices": json.dumps(info["slices"][:-1])}, "expected a label on the 23 slices of its series"),
        (voxels, {"slices": "{"}, "slices as a JSON list"),
        (voxels, {**good, "params": "[]"}, "params as a JSON mapping"),
        (b"\x09" + voxels[1:], good, "got [9]"),
    ]
    for body, form, message in wrong:
        answer = requests.put(f"{url}/maml/series/{series}/label", form, files={"voxels": body}, timeout=60)
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["detail"]
    assert running.client.info()["datastore"]["total"] == 5


def test_voxels_of_the_viewer_land_on_their_slices(running: Running, tmp_path: Path) -> None:
    """The viewer's order of slices is its own: only their names say where the planes belong."""
    url, series = running.server.url, running.archive.uid(2, "mr_t1")
    slices = requests.get(f"{url}/maml/series/{series}", timeout=60).json()["slices"]
    grid = running.archive.studies[2][1].images["mr_t1"].grid
    label = np.zeros(grid.shape, np.uint8)
    label[3:6, 4:5, 0], label[1, 7:9, 3] = 1, 2
    order = np.random.default_rng(0).permutation(len(slices))
    body = np.ascontiguousarray(label.transpose(2, 1, 0)[order]).tobytes()
    form = {"slices": json.dumps([slices[place] for place in order]), "params": json.dumps({"drawn": "MANUAL"})}
    draft = requests.put(f"{url}/maml/series/{series}/draft", form, files={"voxels": body}, timeout=60)
    assert draft.status_code == 200, draft.text
    kept = next(running.models.parent.rglob("drafts/*/*.nii.gz"))
    kept.unlink()
    kept.mkdir()  # what nobody can unlink: the label is saved all the same
    answer = requests.put(f"{url}/maml/series/{series}/label", form, files={"voxels": body}, timeout=60).json()
    assert f"{answer['label']} is saved, but" in running.server.log.read_text()
    assert requests.get(f"{url}/maml/series/{series}", timeout=60).json()["draft"] is None
    assert answer["modality"] == "mr_t1"
    assert answer["volume_ml"]["organ"] == round(3 * grid.voxel_ml, 2)
    found = requests.get(f"{url}/datastore/label", {"label": answer["label"], "tag": "final"}, timeout=60)
    (tmp_path / "back.nii.gz").write_bytes(found.content)
    back = read_label(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(back.voxels, label)
    assert back.grid.same_as(grid)


def test_a_study_of_two_cases_opens_by_the_series_on_the_screen(running: Running, spec: TaskSpec) -> None:
    """Two frames of reference in one study are two cases; the viewer knows the study, and what it shows."""
    url, volume = running.server.url, running.archive.studies[0][1].images["ct"]
    made = [write_series(volume, spec.modalities[0], "two frames", number, "ct") for number in (2, 3)]
    uids = [str(images[0].SeriesInstanceUID) for images in made]
    running.archive.orthanc.add(made[0] + tell(made[1], FrameOfReferenceUID=generate_uid()))
    try:
        study = str(made[0][0].StudyInstanceUID)
        assert "holds several cases" in requests.get(f"{url}/maml/study/{study}", timeout=60).json()["detail"]
        told = [requests.get(f"{url}/maml/study/{study}", {"series": uid}, timeout=60).json() for uid in uids]
        assert [found["series"] for found in told] == [{"ct": uid} for uid in uids]
        assert told[0]["case"] != told[1]["case"]
    finally:
        for uid in uids:
            running.archive.orthanc.delete_series(uid)


def test_an_archive_that_goes_down_is_told_and_the_server_stays(running: Running) -> None:
    archive, url = running.archive, running.server.url
    archive.orthanc.stop()
    try:
        for answer in (
            requests.post(f"{url}/infer/toy?image={archive.uid(0, 'ct')}&output=image", timeout=60),
            requests.get(f"{url}/proxy/dicom/qido/studies", timeout=60),
            requests.get(f"{url}/maml/series/{archive.uid(0, 'ct')}", timeout=60),
            requests.post(f"{url}/activelearning/random", json={}, timeout=60),
        ):
            assert answer.status_code == 502, answer.text
            assert "cannot be reached" in answer.json()["detail"]
    finally:
        archive.orthanc.start()
    assert requests.post(f"{url}/activelearning/random", json={}, timeout=60).ok
    assert running.client.info()["datastore"]["total"] == 5


def test_an_archive_that_is_down_at_the_start_is_one_message(spec: TaskSpec, tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/dicom-web"
    server = Server(address, tmp_path / "log", conf={"models": str(tmp_path), "cache": str(tmp_path)})
    with pytest.raises(ServerError) as error, server:
        pass
    assert f"{address}: listing series failed: it cannot be reached" in str(error.value)
    assert "Traceback" not in str(error.value)
