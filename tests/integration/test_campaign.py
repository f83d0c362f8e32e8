"""The campaign's page in a real browser: what it shows, what its buttons do, who may press them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from maml_app.cases.spec import TaskSpec
from maml_app.choosing.store import ScoreStore
from maml_app.versions.registry import ModelRegistry
from tests.harness.browser import FLAGS, chromium
from tests.harness.people import PASSWORD, Shared, people_at
from tests.harness.server import ROOT
from tests.harness.waiting import until

ARTEFACTS = ROOT / "scratch"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, spec: TaskSpec) -> Iterator[Shared]:
    with people_at(tmp_path_factory.mktemp("campaign"), spec, "review: {required: true}\n", scoring=True) as shared:
        yield shared


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


def opened(browser: Browser, shared: Shared, user: str) -> Page:
    """The page, after a login as a browser asks for it."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{shared.server.url}/")
    page.get_by_label("User").fill(user)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.goto(f"{shared.server.url}/")
    page.locator("#progress").wait_for()
    return page


def expected_of(shared: Shared) -> list[float]:
    """The Dice to expect of two cases that now wait for a review, when the served model has looked at them."""
    registry = ModelRegistry(shared.models)
    # as if it had been validated on enough cases
    known = {"intercept": 0.1, "slope": 0.8, "spread": 0.08, "cases": 9}
    registry.annotate(str(registry.served()), cross_validation={"expectation": known})
    cases = ("phantom_002", "phantom_003")
    for case in cases:
        assert shared.save("anna", case, 9).status_code == 200
    assert shared.ask("POST", "/activelearning/first", "carl", json={}).ok  # then the server looks at the cases
    store, served = ScoreStore(registry.scores), str(registry.served())
    until(lambda: store.read(served).keys() >= set(cases), "the scores of both cases")
    scores = store.read(served)
    return [round(0.1 + 0.8 * float(np.mean(list(scores[case].promised.values()))), 2) for case in cases]


def review_order(page: Page, shared: Shared) -> list[float]:
    page.goto(f"{shared.server.url}/")
    rows = page.locator("#review tr:has(td)").all_inner_texts()
    return [float(row.split("\t")[3]) for row in rows if "phantom_002" in row or "phantom_003" in row]


def test_a_reviewer_follows_and_leads_a_campaign(browser: Browser, shared: Shared) -> None:
    (shared.studies / "stray_ct.nii.gz.part").write_bytes(b"x")
    assert shared.save("anna", "phantom_000", 10).status_code == 200
    assert shared.save("ben", "phantom_000", 12, parent="final-0001").status_code == 200
    assert shared.save("anna", "phantom_000", 14, parent="final-0001").status_code == 409
    assert shared.save("anna", "phantom_001", 20).status_code == 200
    page = opened(browser, shared, "rita")
    assert "2 of 6 cases have a label, 0 of them reviewed" in page.locator("#progress").inner_text()
    assert "anna: 3, ben: 1" in page.locator("#progress").inner_text()
    assert "stray_ct.nii.gz.part" in page.locator("#problems").inner_text()
    row = page.locator("#contested tr").filter(has_text="final-0003")
    assert "final-0002" in row.inner_text()
    row.get_by_role("button", name="Let it count").click()
    page.locator("#contested").wait_for(state="detached")
    assert shared.history("phantom_000")[-1]["state"] == "final"
    page.locator("#review tr").filter(has_text="phantom_001").get_by_role("button", name="Approve").click()
    page.locator("#progress").get_by_text("1 of them reviewed").wait_for()
    page.once("dialog", lambda dialog: dialog.accept("the rim is missing"))
    page.locator("#review tr").filter(has_text="phantom_000").get_by_role("button", name="Reject").click()
    page.locator("#recent tr").filter(has_text="final-0003").get_by_text("rejected").wait_for()
    assert shared.history("phantom_000")[-1]["decisions"][-1]["comment"] == "the rim is missing"
    page.once("dialog", lambda dialog: dialog.accept("carl"))
    last = page.locator("#queue li").last
    name = last.locator("strong").inner_text()
    last.get_by_role("button", name="Assign").click()
    page.locator("#queue li").filter(has_text=name).get_by_text("with carl").wait_for()
    assert shared.ask("POST", "/activelearning/first", "carl", json={}).json()["id"] == name
    page.get_by_role("button", name="Train").click()

    page.get_by_role("button", name="Stop").wait_for()
    shared.trained()
    page.locator("#models").get_by_text("served", exact=True).wait_for()
    expected = expected_of(shared)
    assert review_order(page, shared) == sorted(expected)
    page.screenshot(path=ARTEFACTS / "campaign.png", full_page=True)
    page.goto(f"{shared.server.url}/docs")
    assert "/maml/cases/{case}/history" in page.locator("table").inner_text()
    page.close()


def test_an_annotator_sees_it_and_may_press_less(browser: Browser, shared: Shared) -> None:
    page = opened(browser, shared, "ben")
    assert page.get_by_role("button", name="Train").count() == 0
    assert page.get_by_role("button", name="Assign").count() == 0
    first = page.locator("#queue li").first
    name = first.locator("strong").inner_text()
    first.get_by_role("button", name="Skip").click()
    page.get_by_text("Skip: done.").wait_for()
    # after the free ones, before the one that was given to someone else
    rows = page.locator("#queue li").all_inner_texts()
    place = next(index for index, row in enumerate(rows) if name in row)
    assert all("with carl" in row for row in rows[place + 1 :])
    assert not any("with carl" in row for row in rows[:place])
    page.close()


def test_nothing_of_a_case_can_become_markup(browser: Browser, shared: Shared) -> None:
    evil = "<img src=x onerror=document.title='hit'>"
    assert shared.save("anna", "phantom_005", 10, comment=evil).status_code == 200
    assert shared.say("rita", "phantom_005", "final-0001", "judge", verdict="reject", comment=evil).status_code == 200
    path = Path(shared.studies / "<b>bold</b>_t1.nii.gz.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    page = opened(browser, shared, "rita")
    assert page.title() != "hit"
    assert page.locator("#problems b").count() == 0
    page.close()
