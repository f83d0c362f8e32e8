"""OHIF in Chromium as its tests use it: a study is opened, tools are pressed, what is drawn and shown is read."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
from monailabel.client import MONAILabelClient
from PIL import Image
from playwright.sync_api import BrowserContext, Page

from maml_app.imaging.geometry import resample_label
from maml_app.imaging.volume import Array, Volume
from tests.harness.nninteractive import StandIn
from tests.harness.server import ROOT, Server
from tests.integration.conftest import Archive

ARTEFACTS = ROOT / "scratch"
SLICES = """([series, kind]) => {
  const found = window.cornerstoneTools.segmentation.state.getSegmentation(`${kind}-${series}`);
  const planes = {};
  for (const id of found ? found.representationData.Labelmap.imageIds : []) {
    const image = window.cornerstone.cache.getImage(id);
    planes[image.referencedImageId.split('/instances/')[1]] = Array.from(image.getPixelData());
  }
  return planes;
}"""
VIEWPORTS = """() => window.cornerstone.getEnabledElements().map(({ viewport }) => {
  const box = viewport.element.getBoundingClientRect();
  return { id: viewport.id, type: viewport.type, x: box.x + box.width / 2, y: box.y + box.height / 2,
    slice: viewport.getCurrentImageIdIndex(), slices: viewport.getImageIds().length };
})"""
# the four lines of the cross-hairs begin within 20 pixels of where a place lies
NEAR = """([id, place]) => {
  const { viewport } = window.cornerstone.getEnabledElements().find(one => one.viewport.id === id);
  const [x, y] = viewport.worldToCanvas(place);
  const lines = [...viewport.element.querySelectorAll('svg line')].map(line => {
    const [x1, y1] = ['x1', 'y1'].map(name => Number(line.getAttribute(name)));
    return Math.hypot(x1 - x, y1 - y);
  });
  return lines.length === 4 && Math.max(...lines) < 20;
}"""
# a series in the active viewport, and whether it is there with its image
SHOW = """ct => {
  const { viewportGridService, displaySetService } = window.services;
  const displaySetInstanceUIDs = displaySetService.getDisplaySetsForSeries(ct).map(one => one.displaySetInstanceUID);
  const viewportId = viewportGridService.getActiveViewportId();
  viewportGridService.setDisplaySetsForViewport({ viewportId, displaySetInstanceUIDs });
}"""
ARRIVED = """ct => {
  const id = window.services.viewportGridService.getActiveViewportId();
  const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport(id);
  const image = viewport?.getCurrentImageId?.();
  return Boolean(image) && image.includes(ct) && Boolean(window.cornerstone.cache.getImage(image));
}"""
WORLD = """([id, x, y]) => {
  const { viewport } = window.cornerstone.getEnabledElements().find(one => one.viewport.id === id);
  const { left, top } = viewport.canvas.getBoundingClientRect();
  return [...viewport.canvasToWorld([x - left, y - top])];
}"""
WINDOW = """id => {
  const { viewport } = window.cornerstone.getEnabledElements().find(one => one.viewport.id === id);
  return [viewport.getProperties().voiRange, viewport.getCamera()];
}"""
# counts what the viewer's own tools change in labelmaps, which they do at their own time after the mouse
LISTEN = """() => {
  window.drawnBy = 0;
  if (!window.listens) {
    window.listens = ({ detail }) => { window.drawnBy += detail.ours ? 0 : 1; };
    const name = window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
    window.cornerstone.eventTarget.addEventListener(name, window.listens);
  }
}"""
ACTIVE = "id => window.services.viewportGridService.getActiveViewportId() === id"
RENDERED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
SCROLLED = """([id, slice]) => window.cornerstone.getEnabledElements()
  .some(({ viewport }) => viewport.id === id && viewport.getCurrentImageIdIndex() !== slice)"""
SHOWN = """() => [...window.services.viewportGridService.getState().viewports.keys()].map(
  id => window.services.segmentationService.getSegmentationRepresentations(id).map(one => one.segmentationId))"""


@dataclass
class Running:
    server: Server
    client: MONAILabelClient
    archive: Archive
    browser: BrowserContext
    guest: StandIn


def open_study(page: Page, running: Running, study: int) -> None:
    """Open a study in our mode, and wait until its newest label, or that there is none, is told."""
    page.goto(f"{running.server.url}/ohif/monai-label?StudyInstanceUIDs={running.archive.study_uid(study)}")
    page.get_by_text("Confirm and Hide").or_(page.locator("#maml [data-maml=state]")).first.wait_for()
    if page.get_by_text("Confirm and Hide").is_visible():
        page.get_by_text("Confirm and Hide").click()
    ready(page)


def ready(page: Page) -> None:
    page.locator("#maml [data-maml=state]").get_by_text("Modalities:").wait_for()
    page.locator("#maml [data-maml=saved]").get_by_text(re.compile(r"final-|Nothing is drawn|Not saved")).wait_for()
    page.locator("#maml [data-maml=save]:enabled").wait_for()


def press(page: Page, name: str) -> None:
    page.locator(f"#maml [data-maml={name}]").click()


def drag(page: Page, places: list[tuple[float, float]]) -> None:
    """Draw with the mouse, which stays down."""
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)


def message(page: Page, text: str) -> str:
    box = page.locator("#maml [data-maml=message]")
    box.get_by_text(text).wait_for()
    return box.inner_text()


def said(page: Page, name: str) -> str:
    return page.locator(f"#maml [data-maml={name}]").inner_text()


def answer(page: Page, words: str) -> None:
    """Answer a question that the panel asks."""
    page.locator(f'#maml [data-answer="{words}"]').click()


def viewport(page: Page, modality: str) -> dict[str, Any]:
    found = {one["id"]: one for one in page.evaluate(VIEWPORTS)}
    return dict(found[f"maml-{modality}"])


def activate(page: Page, modality: str) -> None:
    at = viewport(page, modality)
    press(page, "WindowLevel")
    page.mouse.click(at["x"], at["y"])
    said = re.compile(rf"^Series: (.*\()?{modality}\)?$")  # its description, and what it is taken for if that differs
    page.locator("#maml [data-maml=series]").get_by_text(said).wait_for()
    page.wait_for_function(ACTIVE, arg=at["id"])
    rendered(page)


def rendered(page: Page) -> None:
    """Wait until what is asked for by now is on the screen."""
    page.evaluate(RENDERED)


def scroll(page: Page, modality: str, by: int) -> None:
    """Turn the mouse's wheel over a viewport, and wait until it shows another slice."""
    at = viewport(page, modality)
    page.mouse.move(at["x"], at["y"])
    page.mouse.wheel(0, by)
    page.wait_for_function(SCROLLED, arg=[at["id"], at["slice"]])


def stroke(
    page: Page,
    modality: str,
    tool: str = "CircularBrush",
    offset: tuple[int, int] = (-110, 110),
    drag: bool = True,
    lands: bool = True,
) -> None:
    """Draw a short stroke with the mouse, or click once, so far from the middle of a viewport, until it is drawn there.

    Where a viewport is not the active one, nothing is (`lands`).
    """
    press(page, tool)
    at = viewport(page, modality)
    page.evaluate(LISTEN)
    page.mouse.move(at["x"] + offset[0], at["y"] + offset[1])
    page.mouse.down()
    if drag:
        page.mouse.move(at["x"] + offset[0] + 15, at["y"] + offset[1] + 8, steps=5)
    page.mouse.up()
    if lands:
        page.wait_for_function("() => window.drawnBy > 0")
        rendered(page)


def draw_with(page: Page, label: str) -> None:
    page.locator(f'[data-draw="{label}"]').check()


def unprotect(page: Page, *labels: str) -> None:
    """Let the brush change labels that are not the chosen one: these, or all."""
    for box in page.locator("[data-protect]").all():
        box.set_checked(bool(labels) and box.get_attribute("data-protect") not in labels)


def in_viewer(page: Page, series: str, kind: str = "maml") -> dict[str, Array]:
    """The viewer's labelmap of a series, or what lies over it (`over`): slice name -> voxels."""
    planes = page.evaluate(SLICES, [series, kind])
    return {name: np.array(values, np.uint8) for name, values in planes.items()}


def info_of(running: Running, series: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{running.server.url}/maml/series/{series}", timeout=60).json()
    return found


def coloured(page: Page, label: str) -> int:
    """How many pixels of the viewports have the hue of a label."""
    swatch = page.locator("tr", has=page.locator(f'[data-draw="{label}"]')).locator("label span")
    colour = np.array(
        [float(part) for part in re.findall(r"\d+", swatch.evaluate("one => getComputedStyle(one).color"))]
    )
    panel = page.locator("#maml").bounding_box()
    assert panel
    image = page.screenshot(clip={"x": 300, "y": 60, "width": panel["x"] - 310, "height": 800})
    pixels = np.array(Image.open(io.BytesIO(image)).convert("RGB"), float)
    hue = pixels - pixels.min(axis=-1, keepdims=True)
    wanted = colour - colour.min()
    strength = np.linalg.norm(hue, axis=-1)
    likeness = hue @ wanted / np.maximum(strength * np.linalg.norm(wanted), 1e-6)
    return int(((strength > 30) & (likeness > 0.98)).sum())


def on_server(running: Running, series: str, label: Array) -> dict[str, Array]:
    """A label map (X, Y, Z) as slices by name."""
    slices = requests.get(f"{running.server.url}/maml/series/{series}", timeout=60).json()["slices"]
    return {name: label[:, :, place].T.ravel() for place, name in enumerate(slices)}


def stored(running: Running, study: int, folder: Path) -> tuple[str, Path]:
    """The id of a study's newest label, and its file."""
    url, series = running.server.url, running.archive.uid(study, "pet")
    info = requests.get(f"{url}/maml/series/{series}", timeout=60).json()
    label = f"{info['case']}@{info['label']['label']}"
    file = folder / f"{info['label']['label']}.nii.gz"
    file.write_bytes(requests.get(f"{url}/datastore/label", {"label": label, "tag": "final"}, timeout=60).content)
    return info["label"]["label"], file


def resampled(running: Running, study: int, modality: str, label: Volume) -> dict[str, Array]:
    """A label on another series of its case, as the server's own function brings it there."""
    _, case = running.archive.studies[study]
    grid = case.images[modality].grid
    return on_server(running, running.archive.uid(study, modality), resample_label(label.voxels, label.grid, grid))


def assert_same(one: dict[str, Array], two: dict[str, Array]) -> None:
    assert sorted(one) == sorted(two)
    for name, plane in one.items():
        np.testing.assert_array_equal(plane, two[name])


def changed(one: dict[str, Array], two: dict[str, Array]) -> list[str]:
    return [name for name, plane in one.items() if not np.array_equal(plane, two[name])]
