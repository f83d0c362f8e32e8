"""The annotator's way through OHIF: real Chromium, real server, real Orthanc."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from playwright.sync_api import Browser, Page, sync_playwright

from maml_app.cases.spec import parse_task
from maml_app.imaging.files import read_label
from maml_app.imaging.volume import Array
from maml_app.phantom.dicom import make_study
from maml_app.settings import Settings
from maml_app.stores.choice import open_archive
from tests.harness.browser import FLAGS, chromium
from tests.harness.server import ROOT, Server
from tests.integration.conftest import ENOUGH, QUICK, Archive, wait_for_training

ARTEFACTS = ROOT / "scratch"
SLICES = """series => {
  const found = window.cornerstoneTools.segmentation.state.getSegmentation(`maml-${series}`);
  const planes = {};
  for (const id of found ? found.representationData.Labelmap.imageIds : []) {
    const image = window.cornerstone.cache.getImage(id);
    planes[image.referencedImageId.split('/instances/')[1]] = Array.from(image.getPixelData());
  }
  return planes;
}"""
SHOWN = """() => [...window.services.viewportGridService.getState().viewports.keys()].map(
  id => window.services.segmentationService.getSegmentationRepresentations(id).map(one => one.segmentationId))"""
PIXEL = """([series, label]) => {
  // where on the page the middle of a label is, in the first viewport
  const found = window.cornerstoneTools.segmentation.state.getSegmentation(`maml-${series}`);
  const viewport = window.cornerstone.getEnabledElements()[0].viewport;
  const box = viewport.element.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2, found ? 1 : 0];
}"""


@dataclass
class Running:
    server: Server
    client: MONAILabelClient
    archive: Archive
    browser: Browser


@pytest.fixture(scope="module")
def running(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("ohif")
    (folder / "task.yaml").write_text(QUICK)
    conf = {"task": str(folder / "task.yaml"), "models": str(folder / "models"), "cache": str(folder / "cache")}
    with (
        Server(archive.url, folder / "server.log", conf=conf) as server,
        sync_playwright() as playwright,
    ):
        client = MONAILabelClient(server.url, str(folder))
        client.train_start("toy", {"steps": ENOUGH})
        wait_for_training(client)
        ARTEFACTS.mkdir(exist_ok=True)
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield Running(server, client, archive, browser)
        browser.close()


@pytest.fixture
def page(running: Running, request: pytest.FixtureRequest) -> Iterator[Page]:
    page = running.browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(180_000)
    failures: list[str] = []  # what OHIF itself says when something was thrown and nobody caught it
    page.on("console", lambda said: failures.append(said.text) if "Error Boundary" in said.text else None)
    yield page
    # what the annotator saw last, to look at
    page.screenshot(path=ARTEFACTS / f"{request.node.name}.png")
    page.close()
    assert not failures


def open_study(page: Page, running: Running, study: int) -> None:
    page.goto(f"{running.server.url}/ohif/monai-label?StudyInstanceUIDs={running.archive.study_uid(study)}")
    page.get_by_text("Confirm and Hide").click()
    page.locator("#maml [data-maml=state]").get_by_text("Used:").wait_for()


def show(page: Page, description: str) -> None:
    """Double-click a series in the study browser and wait until the viewport shows it."""
    thumbnail = page.locator('[data-cy="study-browser-thumbnail"]').filter(has_text=description).first
    thumbnail.dblclick()
    page.locator("#maml [data-maml=series]").get_by_text(f"Series: {description}", exact=True).wait_for()


def message(page: Page, text: str) -> str:
    box = page.locator("#maml [data-maml=message]")
    box.get_by_text(text).wait_for()
    return box.inner_text()


def in_viewer(page: Page, series: str) -> dict[str, Array]:
    """The viewer's labelmap of a series: slice name -> voxels."""
    planes = page.evaluate(SLICES, series)
    return {name: np.array(values, np.uint8) for name, values in planes.items()}


def on_server(running: Running, series: str, label: Array) -> dict[str, Array]:
    """A label map (X, Y, Z) as slices by name."""
    slices = requests.get(f"{running.server.url}/maml/series/{series}", timeout=60).json()["slices"]
    return {name: label[:, :, place].T.ravel() for place, name in enumerate(slices)}


def proposal(running: Running, series: str) -> Array:
    file, _ = running.client.infer("toy", series, {"result_extension": ".nii.gz"})
    return read_label(Path(file)).voxels


def assert_same(one: dict[str, Array], two: dict[str, Array]) -> None:
    assert sorted(one) == sorted(two)
    for name, plane in one.items():
        np.testing.assert_array_equal(plane, two[name])


def test_from_the_study_list_to_a_mask_on_each_of_two_series(page: Page, running: Running) -> None:
    page.goto(f"{running.server.url}/ohif/")
    for number in range(5):
        page.get_by_text(f"phantom_00{number}-3", exact=True).first.wait_for()
    open_study(page, running, 4)
    # it connected by itself, to this server
    assert page.locator("#monailabelServerURL").input_value() == f"{running.server.url}/"
    run = page.locator('.modelSelector button[title="Run Segmentation"]').first
    run.wait_for()
    ct, pet = running.archive.uid(4, "ct"), running.archive.uid(4, "pet")
    show(page, "ct")
    run.click()  # the stock panel's button
    assert "from ct, pet, mr_t1" in message(page, "Proposal of model")
    masks = {name: proposal(running, series) for name, series in (("ct", ct), ("pet", pet))}
    assert masks["ct"].any()
    assert_same(in_viewer(page, ct), on_server(running, ct, masks["ct"]))
    assert in_viewer(page, pet) == {}
    show(page, "pet")
    assert all(f"maml-{ct}" not in shown for shown in page.evaluate(SHOWN))
    page.locator("[data-maml=run]").click()
    page.wait_for_function(f"() => ({SLICES})('{pet}') && Object.keys(({SLICES})('{pet}')).length")
    message(page, "Proposal of model")
    page.wait_for_timeout(1000)
    assert_same(in_viewer(page, pet), on_server(running, pet, masks["pet"]))
    assert_same(in_viewer(page, ct), on_server(running, ct, masks["ct"]))  # the first is what it was
    assert all(shown == [f"maml-{pet}"] for shown in page.evaluate(SHOWN))
    show(page, "ct")
    page.wait_for_timeout(1000)
    assert all(shown == [f"maml-{ct}"] for shown in page.evaluate(SHOWN))
    page.screenshot(path=ARTEFACTS / "ohif.png")


def drag(page: Page, offset: tuple[int, int]) -> None:
    x, y, _ = page.evaluate(PIXEL, ["", 0])
    page.mouse.move(x + offset[0], y + offset[1])
    page.mouse.down()
    page.mouse.move(x + offset[0] + 15, y + offset[1] + 8, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1000)


def test_run_correct_save_train(page: Page, running: Running, tmp_path: Path) -> None:
    client, archive = running.client, running.archive
    ct = archive.uid(4, "ct")
    open_study(page, running, 4)
    show(page, "ct")
    page.locator("[data-maml=run]").click()
    message(page, "Proposal of model v0001")
    before = in_viewer(page, ct)
    page.locator("[data-maml=label]").select_option("2")
    page.locator("[data-maml=CircularBrush]").click()
    drag(page, (-30, 40))
    painted = in_viewer(page, ct)
    drawn = sum(int((plane == 2).sum()) for plane in painted.values())
    assert drawn > sum(int((plane == 2).sum()) for plane in before.values())
    page.locator("[data-maml=CircularEraser]").click()
    drag(page, (40, -30))
    erased = in_viewer(page, ct)
    assert sum(int((plane > 0).sum()) for plane in erased.values()) < sum(
        int((plane > 0).sum()) for plane in painted.values()
    )
    done = client.info()["datastore"]["completed"]
    page.locator("[data-maml=save]").click()
    assert "on ct" in message(page, "Saved as the label of this case")
    page.locator("#maml [data-maml=state]").get_by_text("Labelled.").wait_for()
    assert client.info()["datastore"]["completed"] == done + 1
    # the SEG in the archive is what was on the screen
    stored = requests.get(f"{client._server_url}/datastore/", timeout=60, params={"output": "all"}).json()
    case = next(name for name in stored["objects"] if name.startswith(archive.study_uid(4)))
    label = stored["objects"][case]["labels"]["final"]["info"]["id"]
    answer = requests.get(
        f"{client._server_url}/datastore/label", {"label": f"{case}@{label}", "tag": "final"}, timeout=60
    )
    (tmp_path / "label.nii.gz").write_bytes(answer.content)
    assert_same(on_server(running, ct, read_label(tmp_path / "label.nii.gz").voxels), erased)
    # and is trained on, from the stock panel
    page.get_by_text("Active Learning", exact=True).click()
    page.get_by_role("button", name="Update Model").click()
    time.sleep(3)
    log = wait_for_training(client)
    assert f"{done + 1} of 5 cases have a final label" in log


def test_a_case_with_nothing_in_it_and_a_missing_modality(page: Page, running: Running) -> None:
    open_study(page, running, 3)
    assert "Used: pet, mr_t1; missing: ct. No label yet." in page.locator("#maml [data-maml=state]").inner_text()
    show(page, "mr_t1")
    page.locator("[data-maml=save]").click()
    message(page, "There is nothing to save for this series")
    page.locator("[data-maml=empty]").click()
    message(page, "An empty segmentation")
    page.locator("[data-maml=save]").click()
    assert "organ 0 ml, lesion 0 ml" in message(page, "Saved as the label of this case, on mr_t1")
    page.locator("#maml [data-maml=state]").get_by_text("Labelled.").wait_for()


def test_the_next_case_is_offered_with_its_reason(page: Page, running: Running) -> None:
    archive = running.archive
    study, _ = make_study(parse_task(QUICK, "toy"), 21, 0, 24)
    archive.orthanc.add(study.instances())
    uid = str(next(study.instances()).StudyInstanceUID)
    open_study(page, running, 0)
    page.locator("[data-maml=next]").click()
    said = message(page, "Next: ")
    assert re.search(r"Next: phantom_0\d\d-\d+\. 1 of \d: \w", said), said
    link = page.locator("#maml [data-maml=message] a")
    assert "StudyInstanceUIDs=" in (link.get_attribute("href") or "")
    waiting = {archive.study_uid(3), archive.study_uid(4), uid}
    assert (link.get_attribute("href") or "").split("StudyInstanceUIDs=")[1] in waiting
    link.click()
    page.locator("#maml [data-maml=state]").get_by_text("No label yet.").wait_for()


def test_what_cannot_be_done_is_said(page: Page, running: Running) -> None:
    archive = running.archive
    open_study(page, running, 0)
    show(page, "ct")
    page.locator("[data-maml=run]").click()
    message(page, "Proposal of model")
    kept = in_viewer(page, archive.uid(0, "ct"))
    archive.orthanc.stop()
    try:
        page.locator("[data-maml=save]").click()
        message(page, "it cannot be reached; is the archive running?")
    finally:
        archive.orthanc.start()
    assert_same(in_viewer(page, archive.uid(0, "ct")), kept)  # nothing drawn is lost
    page.locator("[data-maml=save]").click()
    message(page, "Saved as the label of this case")
    show(page, "3-plane localizer")
    page.locator("#maml [data-maml=state]").get_by_text("cannot be segmented: localizer").wait_for()
    page.locator("[data-maml=run]").click()
    message(page, "cannot be segmented: localizer")


def test_the_viewer_s_own_export_reaches_the_archive_and_is_no_label(
    page: Page, running: Running, tmp_path: Path
) -> None:
    archive = running.archive
    page.goto(f"{running.server.url}/ohif/segmentation?StudyInstanceUIDs={archive.study_uid(1)}")
    page.get_by_text("Confirm and Hide").click()
    page.wait_for_function(
        "() => window.services && window.services.displaySetService.getActiveDisplaySets().length > 2"
    )
    page.wait_for_timeout(3000)
    done = running.client.info()["datastore"]["completed"]
    series = page.evaluate(
        """async () => {
          const { viewportGridService, displaySetService, segmentationService } = window.services;
          const grid = viewportGridService.getState();
          const [shown] = grid.viewports.get(grid.activeViewportId).displaySetInstanceUIDs;
          const displaySet = displaySetService.getDisplaySetByUID(shown);
          const segments = { 1: { segmentIndex: 1, label: 'organ', active: true } };
          const options = { segmentationId: 'by-hand', label: 'By hand', segments };
          const id = await segmentationService.createLabelmapForDisplaySet(displaySet, options);
          const shownAs = { segmentationId: id, type: 'Labelmap' };
          await segmentationService.addSegmentationRepresentation(grid.activeViewportId, shownAs);
          const found = window.cornerstoneTools.segmentation.state.getSegmentation(id);
          const image = window.cornerstone.cache.getImage(found.representationData.Labelmap.imageIds[5]);
          image.getPixelData().fill(1, 100, 140);
          await window.commandsManager.runCommand('storeSegmentation', { segmentationId: id });
          return displaySet.SeriesInstanceUID;
        }"""
    )
    url = f"{archive.url}/series"
    found = requests.get(url, {"Modality": "SEG", "StudyInstanceUID": archive.study_uid(1)}, timeout=60).json()
    assert len(found) == 2  # the phantom's truth, and this one
    assert running.client.info()["datastore"]["completed"] == done
    # told so, it is read as what was drawn
    store = open_archive(archive.url, parse_task(QUICK, "toy"), Settings(cache=str(tmp_path), foreign_segs="use"))
    case, asked = store.resolve(series)
    assert case.label is not None
    label = read_label(case.label.local())
    assert label.grid.same_as(archive.studies[1][1].images[asked].grid)
    planes = [label.voxels[:, :, place].T.ravel() for place in range(label.voxels.shape[2])]
    drawn = [plane for plane in planes if plane.any()]
    assert [np.flatnonzero(plane).tolist() for plane in drawn] == [list(range(100, 140))]


def test_the_served_configuration_names_the_task(running: Running) -> None:
    text = requests.get(f"{running.server.url}/ohif/app-config.js", timeout=60).text
    assert text.startswith("window.config = {")
    shown: Any = text[text.index("window.maml = ") :].split(";\n", 1)[0]
    assert '"model": "toy"' in shown
    assert '"colour": [0, 255, 0]' in shown
