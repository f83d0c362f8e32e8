"""The annotator's way through OHIF: real Chromium, real server, real Orthanc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from playwright.sync_api import Page, sync_playwright

from maml_app.cases.spec import load_task, parse_task
from maml_app.imaging.files import read_label
from maml_app.imaging.volume import Grid
from maml_app.phantom.dicom import make_study
from maml_app.settings import Settings
from maml_app.stores.choice import open_archive
from tests.harness.browser import FLAGS, chromium
from tests.harness.nninteractive import StandIn
from tests.harness.server import ROOT, Server
from tests.integration.conftest import QUICK, Archive
from tests.integration.ohif import (
    ARRIVED,
    ARTEFACTS,
    NEAR,
    SCROLLED,
    SHOW,
    SHOWN,
    VIEWPORTS,
    WINDOW,
    WORLD,
    Running,
    activate,
    answer,
    assert_same,
    changed,
    coloured,
    drag,
    draw_with,
    in_viewer,
    info_of,
    message,
    on_server,
    open_study,
    press,
    ready,
    rendered,
    resampled,
    said,
    scroll,
    stored,
    stroke,
    unprotect,
    viewport,
)


@pytest.fixture(scope="module")
def running(archive: Archive, taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("ohif")
    (folder / "task.yaml").write_text(QUICK)
    conf = {"task": str(folder / "task.yaml"), "models": str(taught), "cache": str(folder / "cache")}
    with (
        StandIn() as guest,
        Server(archive.url, folder / "server.log", conf=conf | {"nninteractive": guest.url}) as server,
        sync_playwright() as playwright,
    ):
        client = MONAILabelClient(server.url, str(folder))
        ARTEFACTS.mkdir(exist_ok=True)
        # a profile on disk, for only with one does Chromium keep scripts that it has compiled
        context = playwright.chromium.launch_persistent_context(
            folder / "profile", executable_path=chromium(), args=FLAGS, viewport={"width": 1600, "height": 900}
        )
        yield Running(server, client, archive, context, guest)
        context.close()


@pytest.fixture
def page(running: Running, request: pytest.FixtureRequest) -> Iterator[Page]:
    page = running.browser.new_page()
    page.set_default_timeout(60_000)
    failures: list[str] = []  # what OHIF itself says when something was thrown and nobody caught it
    page.on("console", lambda said: failures.append(said.text) if "Error Boundary" in said.text else None)
    yield page
    # what the annotator saw last, to look at
    page.screenshot(path=ARTEFACTS / f"{request.node.name}.png")
    page.close()
    assert not failures


def test_the_modalities_lie_side_by_side_and_a_proposal_is_on_all(page: Page, running: Running) -> None:
    page.goto(f"{running.server.url}/ohif/")
    for number in range(5):
        page.get_by_text(f"phantom_00{number}-3", exact=True).first.wait_for()
    open_study(page, running, 4)
    shown = page.evaluate(VIEWPORTS)
    assert [one["id"] for one in shown] == ["maml-ct", "maml-pet", "maml-mr_t1"]
    assert {one["type"] for one in shown} == {"stack"}  # slices as they were acquired, and no reformats
    assert not page.locator(".monaiLabelPanel").is_visible()  # no stock door is open
    assert "No label yet." in said(page, "state")
    assert "Model v0001." in said(page, "state")
    press(page, "run")
    told = message(page, "Proposal of model v0001")
    assert re.search(r"from ct, pet, mr_t1; uncertainty 0\.\d\d; expected Dice 0\.\d\d ± 0\.08\.", told), told
    ct = running.archive.uid(4, "ct")
    file, _ = running.client.infer("toy", ct, {"result_extension": ".nii.gz"})
    label = read_label(Path(file))
    assert label.voxels.any()
    assert_same(in_viewer(page, ct), on_server(running, ct, label.voxels))
    for modality in ("pet", "mr_t1"):
        series = running.archive.uid(4, modality)
        assert_same(in_viewer(page, series), resampled(running, 4, modality, label))
    assert all(len(ids) == 1 for ids in page.evaluate(SHOWN))
    # scrolled together, by where the slices lie
    before = viewport(page, "pet")["slice"]
    scroll(page, "ct", 400)
    page.wait_for_function(SCROLLED, arg=["maml-pet", before])
    page.screenshot(path=ARTEFACTS / "ohif.png")
    # cross-hairs: what is under the mouse is shown on all series, on the slice nearest to it
    page.locator("[data-maml=cursor]").check()
    at = viewport(page, "ct")
    page.mouse.move(at["x"] - 60, at["y"] + 40)
    page.mouse.move(at["x"] - 50, at["y"] + 45)
    left, back, up = page.evaluate(WORLD, ["maml-ct", at["x"] - 50, at["y"] + 45])
    for modality in ("pet", "mr_t1"):
        page.wait_for_function(NEAR, arg=[f"maml-{modality}", [left, back, up]])
    assert viewport(page, "ct")["slice"] == at["slice"]
    for modality in ("pet", "mr_t1"):
        grid = running.archive.studies[4][1].images[modality].grid
        nearest = round((np.linalg.inv(grid.affine) @ (-left, -back, up, 1.0))[2])
        slices = viewport(page, modality)["slices"]
        assert viewport(page, modality)["slice"] in (nearest, slices - 1 - nearest)
    page.screenshot(path=ARTEFACTS / "cross.png")
    page.locator("[data-maml=cursor]").uncheck()
    # another modality over all series, and where the model is not sure; the label below stays as it is
    before = in_viewer(page, ct)
    for of in ("pet", "uncertainty"):
        page.locator("[data-maml=overlay]").select_option(of)
        page.locator("#maml [data-maml=save]:enabled").wait_for()
        levels = requests.get(f"{running.server.url}/maml/series/{ct}/overlay", {"of": of}, timeout=60)
        x, y, z = running.archive.studies[4][1].images["ct"].grid.shape
        expected = np.frombuffer(levels.content, np.uint8).reshape(z, y, x).transpose(2, 1, 0)
        assert expected.any()
        shown = np.where(expected > 0, expected + 100, 0).astype(np.uint8)
        assert_same(in_viewer(page, ct, "over"), on_server(running, ct, shown))
        page.screenshot(path=ARTEFACTS / f"overlay_{of}.png")
    assert_same(in_viewer(page, ct), before)
    page.locator("[data-maml=overlay]").select_option("")
    page.locator("#maml [data-maml=save]:enabled").wait_for()
    assert all(len(ids) == 1 for ids in page.evaluate(SHOWN))
    # one that takes long can be cancelled
    page.route("**/overlay?of=*", lambda route: None)
    page.locator("[data-maml=overlay]").select_option("disagreement")
    page.locator("#maml [data-maml=run]").get_by_text("Cancel").click()
    message(page, "Cancelled.")
    page.locator("#maml [data-maml=save]:enabled").wait_for()
    assert page.locator("[data-maml=overlay]").input_value() == ""
    page.unroute("**/overlay?of=*")
    # keys work after a label was chosen with the mouse
    draw_with(page, "lesion")
    page.keyboard.press("e")
    assert page.locator("[data-maml=CircularEraser]").get_attribute("aria-pressed") == "true"


def test_a_stroke_is_on_one_acquired_slice_and_in_the_seg(page: Page, running: Running, tmp_path: Path) -> None:
    """The series are oblique: drawn on a reformat, a stroke would fill several slices."""
    ct, pet = running.archive.uid(4, "ct"), running.archive.uid(4, "pet")
    open_study(page, running, 4)
    press(page, "run")
    message(page, "Proposal of model v0001")
    before = in_viewer(page, ct)
    place = page.locator("#maml [data-maml=save]").bounding_box()
    draw_with(page, "lesion")
    stroke(page, "ct")
    painted = in_viewer(page, ct)
    (name,) = changed(before, painted)
    assert int((painted[name] == 2).sum()) > int((before[name] == 2).sum())
    # other labels are protected: what was organ stays organ
    assert int((painted[name] == 1).sum()) == int((before[name] == 1).sum())
    unprotect(page)
    stroke(page, "ct", offset=(0, 0))
    over = in_viewer(page, ct)
    assert int((over[name] == 1).sum()) < int((painted[name] == 1).sum())
    page.locator("#maml [data-maml=saved]").get_by_text("Not saved yet").wait_for()
    assert page.locator("#maml [data-maml=save]").bounding_box() == place  # what is told moves no button
    press(page, "undo")
    assert_same(in_viewer(page, ct), painted)
    press(page, "redo")
    assert_same(in_viewer(page, ct), over)
    page.keyboard.press("Control+z")
    assert_same(in_viewer(page, ct), painted)
    # a click without a drag is drawn after the mouse went up, and is a step as well
    stroke(page, "ct", offset=(-60, 60), drag=False)
    assert changed(painted, in_viewer(page, ct)) == [name]
    page.keyboard.press("Control+z")
    assert_same(in_viewer(page, ct), painted)
    # nothing is drawn on a series where the label does not lie
    kept = in_viewer(page, pet)
    with page.expect_response(re.compile(r"/label\?label=draft")):
        stroke(page, "pet", lands=False)
        message(page, 'draw there, or press "Draw here" first')
    activate(page, "ct")
    done = running.client.info()["datastore"]["completed"]
    press(page, "save")
    assert "on ct" in message(page, "Saved as the label of this case")
    assert running.client.info()["datastore"]["completed"] == done + 1
    label, file = stored(running, 4, tmp_path)
    volume = read_label(file)
    assert_same(on_server(running, ct, volume.voxels), painted)
    assert_same(in_viewer(page, pet), resampled(running, 4, "pet", volume))  # on PET at once
    assert changed(kept, in_viewer(page, pet))
    assert f"{label}, just now, by someone, corrected by" in said(page, "saved")
    # and goes on after the page was closed
    open_study(page, running, 4)
    assert_same(in_viewer(page, ct), painted)
    assert f"{label}, " in said(page, "versions")
    activate(page, "ct")
    draw_with(page, "organ")
    stroke(page, "ct", "CircularEraser", (10, -30))
    press(page, "save")
    message(page, "Saved as the label of this case")
    again, _ = stored(running, 4, tmp_path)
    assert again != label
    page.locator("[data-maml=versions]").select_option(label)
    press(page, "open")
    message(page, f"This is {label}")
    assert_same(in_viewer(page, ct), painted)


def test_a_click_and_a_scribble_mend_the_label_at_their_place_on_all_series(page: Page, running: Running) -> None:
    ct, mr = running.archive.uid(4, "ct"), running.archive.uid(4, "mr_t1")
    case = running.archive.studies[4][1]
    open_study(page, running, 4)
    activate(page, "ct")
    press(page, "run")
    message(page, "Proposal of model v000")
    page.locator("#maml [data-maml=save]:enabled").wait_for()
    before = in_viewer(page, ct)
    draw_with(page, "lesion")
    press(page, "Click")
    # on the MR, whose slices are other ones: the label lies on CT and is mended there
    at = viewport(page, "mr_t1")
    x, y = at["x"] - 60, at["y"] + 70

    def voxel(grid: Grid, x: float = x, y: float = y) -> list[int]:
        left, back, up = page.evaluate(WORLD, ["maml-mr_t1", x, y])
        return [int(index) for index in np.round(np.linalg.inv(grid.affine) @ (-left, -back, up, 1.0))[:3]]

    def value(series: str, modality: str, x: float = x, y: float = y) -> int:
        grid = case.images[modality].grid
        column, row, place = voxel(grid, x, y)
        slices = requests.get(f"{running.server.url}/maml/series/{series}", timeout=60).json()["slices"]
        return int(in_viewer(page, series)[slices[place]].reshape(grid.shape[1], grid.shape[0])[row, column])

    old = value(ct, "ct")
    assert old != 2
    page.mouse.click(x, y)
    told = message(page, "lesion: ")
    assert re.search(r"lesion: \d+\.\d\d ml added, 0\.00 ml taken away", told), told
    page.locator("#maml [data-maml=save]:enabled").wait_for()
    after = in_viewer(page, ct)
    assert value(ct, "ct") == (2 if old == 0 else old)  # what is organ is not taken from the organ
    draft = requests.get(f"{running.server.url}/maml/series/{mr}/label", {"label": "draft"}, timeout=60).content
    x_size, y_size, z_size = case.images["mr_t1"].grid.shape
    expected = np.frombuffer(draft, np.uint8).reshape(z_size, y_size, x_size).transpose(2, 1, 0)
    assert_same(in_viewer(page, mr), on_server(running, mr, expected))
    if old == 0:
        page.keyboard.down("Shift")
        page.mouse.click(x, y)
        page.keyboard.up("Shift")
        page.locator("#maml [data-maml=message]").get_by_text(re.compile("0.00 ml added, ")).wait_for()
        page.locator("#maml [data-maml=save]:enabled").wait_for()
        assert value(ct, "ct") == 0
        press(page, "undo")
        assert_same(in_viewer(page, ct), after)
    press(page, "undo")
    assert_same(in_viewer(page, ct), before)
    page.screenshot(path=ARTEFACTS / "clicks.png")

    # a scribble across the slice: seen while it is drawn, gone after Esc, and the image's window stays as it was
    window = page.evaluate(WINDOW, "maml-mr_t1")
    line = page.locator("svg[data-maml=scribble] polyline")
    path = [(x, y), (x + 20, y + 4), (x + 40, y - 12)]
    page.keyboard.press("d")
    drag(page, path)
    assert str(line.get_attribute("points")).count(",") > 10
    page.screenshot(path=ARTEFACTS / "scribble.png")
    page.keyboard.press("Escape")
    page.mouse.up()
    assert not line.count()
    assert_same(in_viewer(page, ct), before)
    before_it = [value(ct, "ct", *there) for there in path]
    drag(page, path)
    page.mouse.up()
    assert not line.count()
    message(page, "Ctrl+Z takes it back")
    page.locator("#maml [data-maml=save]:enabled").wait_for()
    assert [value(ct, "ct", *there) for there in path] == [known or 2 for known in before_it]
    assert 0 in before_it
    draft = requests.get(f"{running.server.url}/maml/series/{mr}/label", {"label": "draft"}, timeout=60).content
    expected = np.frombuffer(draft, np.uint8).reshape(z_size, y_size, x_size).transpose(2, 1, 0)
    assert_same(in_viewer(page, mr), on_server(running, mr, expected))
    press(page, "undo")
    assert_same(in_viewer(page, ct), before)
    assert page.evaluate(WINDOW, "maml-mr_t1") == window

    # nnInteractive answers, on the series where the label lies
    page.locator("#maml [data-maml=guest]").check()
    press(page, "Click")
    page.mouse.click(x, y)
    message(page, "by nnInteractive, weights CC BY-NC-SA 4.0")
    page.locator("#maml [data-maml=save]:enabled").wait_for()
    np.testing.assert_array_equal(np.argwhere(running.guest.drawn), [voxel(case.images["ct"].grid)[::-1]])
    answered = on_server(running, ct, running.guest.mask.T)
    lesion = {name: np.where(before[name] == 1, 1, 2 * plane) for name, plane in answered.items()}
    assert changed(before, lesion)
    assert_same(in_viewer(page, ct), lesion)
    press(page, "undo")
    assert_same(in_viewer(page, ct), before)


def test_unsaved_work_is_kept_and_asked_about(page: Page, running: Running) -> None:
    series = running.archive.uid(0, "mr_t1")
    open_study(page, running, 0)
    activate(page, "mr_t1")
    press(page, "here")
    answer(page, "Draw here")
    message(page, "Draw on mr_t1.")
    unprotect(page)
    stroke(page, "mr_t1", offset=(-110, 110))
    drawn = in_viewer(page, series)
    press(page, "empty")
    assert "Your drawing is not saved." in said(page, "choice")
    answer(page, "Go back")
    assert_same(in_viewer(page, series), drawn)
    # a minute later it is on the server, and there again when the page is opened anew
    page.wait_for_function("() => document.querySelector('[data-maml=saved]').textContent.includes('a draft was kept')")
    page.on("dialog", lambda dialog: dialog.accept())  # the browser asks too before the page goes
    page.reload()
    ready(page)
    message(page, "Your unsaved drawing of")
    assert_same(in_viewer(page, series), drawn)
    activate(page, "mr_t1")
    press(page, "empty")
    answer(page, "Drop it")
    message(page, "An empty segmentation")
    assert info_of(running, series)["draft"] is None
    assert not any(plane.any() for plane in in_viewer(page, series).values())
    # slices between drawn ones are filled in; parts are listed, and a click goes to one
    stroke(page, "mr_t1")
    at = viewport(page, "mr_t1")
    place = at["slice"]
    for _ in range(3):
        scroll(page, "mr_t1", 100)
    moved = viewport(page, "mr_t1")["slice"]
    assert abs(moved - place) > 1
    stroke(page, "mr_t1", offset=(-105, 105))
    drawn = in_viewer(page, series)
    parts = page.locator("#maml [data-maml=lesions] a")
    assert parts.count() == 2
    press(page, "interpolate")
    assert f"{abs(moved - place) - 1} slices were filled in" in message(page, "were filled in")
    assert len(changed(drawn, in_viewer(page, series))) == abs(moved - place) - 1
    assert parts.count() == 1
    press(page, "undo")
    assert_same(in_viewer(page, series), drawn)
    scroll(page, "mr_t1", -300)  # to neither of them
    here = viewport(page, "mr_t1")["slice"]
    assert here not in (place, moved)
    parts.last.click()
    page.wait_for_function(SCROLLED, arg=["maml-mr_t1", here])
    assert viewport(page, "mr_t1")["slice"] in (place, moved)


def test_two_tabs_do_not_replace_each_other(page: Page, running: Running, tmp_path: Path) -> None:
    other = running.browser.new_page()
    other.set_default_timeout(60_000)
    for tab in (page, other):
        open_study(tab, running, 1)
    ct = running.archive.uid(1, "ct")
    for tab, offset in ((page, (-110, 110)), (other, (80, 110))):
        activate(tab, "ct")
        if "Drawn on ct" not in said(tab, "saved"):
            press(tab, "here")
            answer(tab, "Draw here")
            message(tab, "Draw on ct.")
        unprotect(tab)
        stroke(tab, "ct", offset=offset)
    press(page, "save")
    message(page, "Saved as the label of this case")
    theirs, _ = stored(running, 1, tmp_path)
    mine = in_viewer(other, ct)
    press(other, "save")
    other.locator("[data-maml=choice]").get_by_text(f"saved {theirs}").wait_for()
    assert stored(running, 1, tmp_path)[0] == theirs
    answer(other, "Keep mine")
    message(other, "is the label of this case now")
    assert info_of(running, ct)["draft"] is None
    _, file = stored(running, 1, tmp_path)
    assert_same(on_server(running, ct, read_label(file).voxels), mine)
    other.close()


def test_a_case_with_nothing_in_it_and_a_missing_modality(page: Page, running: Running) -> None:
    open_study(page, running, 3)
    assert "Modalities: pet, mr_t1; missing: ct." in said(page, "state")
    assert "ct" in said(page, "modalities")
    activate(page, "mr_t1")
    press(page, "save")
    message(page, "There is nothing to save yet")
    press(page, "empty")
    message(page, "An empty segmentation")
    press(page, "save")
    assert "organ 0 ml, lesion 0 ml" in message(page, "Saved as the label of this case, on mr_t1")
    page.locator("#maml [data-maml=state]").get_by_text("Label: final-0001").wait_for()
    # drawn, and emptied by mistake
    stroke(page, "mr_t1")
    press(page, "save")
    message(page, "Saved as the label of this case, on mr_t1")
    press(page, "empty")
    message(page, "An empty segmentation")
    press(page, "save")
    answer(page, "Nothing is there")
    assert "organ 0 ml, lesion 0 ml" in message(page, "Saved as the label of this case, on mr_t1")


def test_a_series_is_said_to_be_something_else(page: Page, running: Running) -> None:
    study, ct = 2, running.archive.uid(2, "ct")
    open_study(page, running, study)
    rows = page.locator("#maml [data-maml=modalities] tr")
    assert "3-plane localizer" in rows.filter(has_text="localizer").inner_text()
    chosen = page.locator(f'#maml [data-series="{ct}"]')
    assert chosen.input_value() == "ct"
    chosen.select_option("")
    page.locator("#maml [data-maml=modalities]").get_by_text("missing").wait_for()
    ready(page)
    assert sorted(one["id"] for one in page.evaluate(VIEWPORTS)) == ["maml-mr_t1", "maml-pet"]
    page.locator(f'#maml [data-series="{ct}"]').select_option("ct")
    page.locator("#maml [data-maml=modalities]").get_by_text("missing").wait_for(state="detached")
    ready(page)
    assert sorted(one["id"] for one in page.evaluate(VIEWPORTS)) == ["maml-ct", "maml-mr_t1", "maml-pet"]


def test_training_is_followed_to_its_end(page: Page, running: Running) -> None:
    open_study(page, running, 0)
    press(page, "train")
    message(page, "Training has begun.")
    page.locator("#maml [data-maml=training]").get_by_text(re.compile(r"Training: \w+ \d+/\d+")).wait_for()
    assert re.search(r"Training has ended: (published v0002|worse than v0001)", message(page, "Training has ended"))


def test_the_next_case_is_offered_with_its_reason(page: Page, running: Running) -> None:
    archive = running.archive
    study, _ = make_study(parse_task(QUICK, "toy"), 21, 0, 24)
    archive.orthanc.add(study.instances())
    uid = str(next(study.instances()).StudyInstanceUID)
    open_study(page, running, 2)
    press(page, "next")
    told = message(page, "Next: ")
    assert re.search(r"Next: phantom_0\d\d-\d+\. 1 of \d: \w", told), told
    link = page.locator("#maml [data-maml=message] a")
    assert (link.get_attribute("href") or "").split("StudyInstanceUIDs=")[1] == uid
    link.click()
    page.locator("#maml [data-maml=state]").get_by_text("No label yet.").wait_for()


def test_what_cannot_be_done_is_said(page: Page, running: Running) -> None:
    archive = running.archive
    ct = archive.uid(2, "ct")
    open_study(page, running, 2)
    activate(page, "ct")
    press(page, "run")
    message(page, "Proposal of model")
    stroke(page, "ct", offset=(-110, 110))
    kept = in_viewer(page, ct)
    archive.orthanc.stop()
    try:
        press(page, "save")
        told = message(page, "Not saved, your drawing is still here")
        assert "it cannot be reached; is the archive running?" in told
    finally:
        archive.orthanc.start()
    assert_same(in_viewer(page, ct), kept)
    press(page, "save")
    message(page, "Saved as the label of this case")
    thumbnail = page.locator('[data-cy="study-browser-thumbnail"]').filter(has_text="3-plane localizer").first
    thumbnail.dblclick()
    page.locator("#maml [data-maml=state]").get_by_text("cannot be segmented: localizer").wait_for()
    press(page, "run")
    message(page, "cannot be segmented: localizer")


def test_the_viewer_s_own_export_reaches_the_archive_and_is_no_label(
    page: Page, running: Running, tmp_path: Path
) -> None:
    archive = running.archive
    page.goto(f"{running.server.url}/ohif/segmentation?StudyInstanceUIDs={archive.study_uid(1)}")
    page.get_by_text("Confirm and Hide").click()
    ct = archive.uid(1, "ct")
    page.wait_for_function(
        "ct => window.services && window.services.displaySetService.getDisplaySetsForSeries(ct).length", arg=ct
    )
    page.evaluate(SHOW, ct)
    page.wait_for_function(ARRIVED, arg=ct)
    done = running.client.info()["datastore"]["completed"]
    url, wanted = f"{archive.url}/series", {"Modality": "SEG", "StudyInstanceUID": archive.study_uid(1)}
    before = len(requests.get(url, wanted, timeout=60).json())
    series = page.evaluate(
        """async ct => {
          const { viewportGridService, displaySetService, segmentationService } = window.services;
          const grid = viewportGridService.getState();
          const [displaySet] = displaySetService.getDisplaySetsForSeries(ct);
          const segments = { 1: { segmentIndex: 1, label: 'organ', active: true } };
          const options = { segmentationId: 'by-hand', label: 'By hand', segments };
          const id = await segmentationService.createLabelmapForDisplaySet(displaySet, options);
          const shownAs = { segmentationId: id, type: 'Labelmap' };
          await segmentationService.addSegmentationRepresentation(grid.activeViewportId, shownAs);
          const found = window.cornerstoneTools.segmentation.state.getSegmentation(id);
          const image = window.cornerstone.cache.getImage(found.representationData.Labelmap.imageIds[5]);
          image.getPixelData().fill(1, 100, 140);
          // a slice that nobody has looked at is perhaps not there yet
          const { cache } = window.cornerstone;
          const unseen = cache.getImage(found.representationData.Labelmap.imageIds.at(-1)).referencedImageId;
          if (cache.getImage(unseen)) {
            cache.removeImageLoadObject(unseen);
          }
          await window.commandsManager.runCommand('storeSegmentation', { segmentationId: id });
          return displaySet.SeriesInstanceUID;
        }""",
        ct,
    )
    page.get_by_text("Stored in the archive.").first.wait_for()
    assert len(requests.get(url, wanted, timeout=60).json()) == before + 1
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


def test_three_labels_lie_beside_each_other_with_the_others_locked(
    page: Page, running: Running, tmp_path: Path
) -> None:
    """The brain task, before it has any model: last, as its study stays in the archive."""
    spec = load_task(ROOT / "apps" / "brats_mr")
    study = make_study(spec, 7, 0, 32)
    archive = Archive(running.archive.orthanc, [study])
    archive.orthanc.add(study[0].instances())
    conf = {"models": str(tmp_path / "models"), "cache": str(tmp_path / "cache")}
    with Server(archive.url, tmp_path / "server.log", app="apps/brats_mr", conf=conf, scoring=False) as server:
        client = MONAILabelClient(server.url, str(tmp_path))
        assert list(client.info()["models"]) == ["brats_mr", "brats_mr_clicks", "brats_mr_scribbles"]
        brain = Running(server, client, archive, running.browser, running.guest)
        open_study(page, brain, 0)
        assert not page.locator("#maml [data-maml=guest]").count()  # this server has none to ask
        assert [one["id"] for one in page.evaluate(VIEWPORTS)] == ["maml-t1", "maml-t1ce", "maml-t2", "maml-flair"]
        activate(page, "t1ce")
        press(page, "empty")
        message(page, "An empty segmentation")
        t1ce = archive.uid(0, "t1ce")
        counts = []
        for name, across in (
            ("edema", 0),
            ("enhancing", 50),
            ("non_enhancing", 100),
        ):  # each begins where the last lies
            draw_with(page, name)
            stroke(page, "t1ce", offset=(across, 0))
            (name,) = changed(in_viewer(page, t1ce), {n: 0 * plane for n, plane in in_viewer(page, t1ce).items()})
            counts.append(np.bincount(in_viewer(page, t1ce)[name], minlength=4).tolist())
        edema, both, three = counts
        assert edema[1] == edema[3] == 0 < edema[2]
        assert both[2] == edema[2]
        assert both[1] == 0 < both[3] < edema[2]
        assert three[2:] == both[2:]
        assert 0 < three[1] < edema[2]
        # protected one by one: enhancing lies there too, and stays
        unprotect(page, "edema")
        stroke(page, "t1ce", offset=(25, 0))
        open_now = np.bincount(in_viewer(page, t1ce)[name], minlength=4)
        assert open_now[3] == three[3]
        assert open_now[2] < edema[2]
        assert open_now[1] > three[1]
        press(page, "undo")
        drawn = in_viewer(page, t1ce)
        assert np.bincount(drawn[name], minlength=4).tolist() == three
        # shown one by one, in the viewport that is drawn on and in all others
        press(page, "WindowLevel")
        green, blue = coloured(page, "non_enhancing"), coloured(page, "edema")
        assert green
        assert blue
        page.locator('[data-show="edema"]').uncheck()
        rendered(page)
        assert coloured(page, "edema") < blue / 10
        assert coloured(page, "non_enhancing") >= green
        page.keyboard.press("v")
        rendered(page)
        assert coloured(page, "edema") == blue
        for value, shown in enumerate(("non_enhancing", "edema", "enhancing"), start=1):
            told = page.locator(f'[data-volume="{shown}"]').inner_text()
            assert float(told) == pytest.approx(three[value] * info_of(brain, t1ce)["voxel_ml"], abs=0.0051)
        press(page, "save")
        assert "on t1ce" in message(page, "Saved as the label of this case")
        info = info_of(brain, t1ce)
        label = {"label": f"{info['case']}@{info['label']['label']}", "tag": "final"}
        file = tmp_path / "label.nii.gz"
        file.write_bytes(requests.get(f"{server.url}/datastore/label", label, timeout=60).content)
        assert_same(on_server(brain, t1ce, read_label(file).voxels), drawn)
        page.screenshot(path=ARTEFACTS / "three_labels.png")
        # before its server ends, and not in the middle of a request
        page.locator("#maml [data-maml=save]:enabled").wait_for()
        page.wait_for_load_state("networkidle")
        page.goto("about:blank")
