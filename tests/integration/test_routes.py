"""What is open, which of MONAI Label's own endpoints are closed, and that nothing that is sent is an error of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from monailabel.app import app as stock

from maml_app.cases.spec import TaskSpec
from maml_app.phantom.scene import write_cases
from maml_app.server.application import ROUTERS
from maml_app.server.routes.campaign import role_of
from tests.conftest import TOY
from tests.harness.server import Server

# every route that answers, and the least role that it asks for ('' for nobody in particular)
OPEN = {
    "GET /": "user",
    "GET /info/": "user",
    "GET /logs/": "admin",
    "GET /login": "",
    "POST /login": "",
    "POST /logout": "",
    "GET /auth/": "",
    "POST /auth/token": "",
    "GET /auth/token/valid": "user",
    "GET /datastore/": "user",
    "GET /datastore/image": "user",
    "HEAD /datastore/image": "user",
    "GET /datastore/image/info": "user",
    "PUT /datastore/image/info": "annotator",
    "GET /datastore/label": "user",
    "HEAD /datastore/label": "user",
    "GET /datastore/label/info": "user",
    "PUT /datastore/label": "annotator",
    "PUT /datastore/label/info": "reviewer",
    "GET /maml/cases/{case}/history": "user",
    "GET /maml/cases/{case}/agreement": "reviewer",
    "GET /maml/cases/{case}/labels/{label}/changes": "user",
    "POST /maml/cases/{case}/labels/{label}/judge": "annotator",
    "POST /maml/cases/{case}/labels/{label}/choose": "annotator",
    "POST /maml/cases/{case}/labels/{label}/restore": "annotator",
    "GET /maml/series/{series}/label": "user",
    "GET /docs": "user",
    "GET /maml/page/{file}": "",
    "GET /maml/models/{version}/curves": "user",
    "POST /maml/models/{version}/serve": "reviewer",
    "POST /maml/models/rollback": "reviewer",
    "POST /maml/cases/{case}/skip": "annotator",
    "POST /maml/cases/{case}/assign": "reviewer",
    "PUT /maml/series/{series}/draft": "annotator",
    "DELETE /maml/series/{series}/draft": "annotator",
    "POST /infer/{model}": "user",
    "PUT /session/": "user",
    "GET /session/{session_id}": "user",
    "DELETE /session/{session_id}": "user",
    "POST /activelearning/{strategy}": "user",
    "GET /train/": "user",
    "POST /train/": "reviewer",
    "POST /train/{model}": "reviewer",
    "DELETE /train/": "reviewer",
    "GET /favicon.ico": "",
    "GET /ohif/app-config.js": "user",
    "GET /ohif/{path:path}": "user",
    "GET /maml/study/{study}": "user",
    "GET /maml/picture/{case_id}": "user",
    "GET /maml/series/{series}": "user",
    "PUT /maml/series/{series}/label": "annotator",
    "POST /maml/series/{series}/correct": "user",
    "PUT /maml/series/{series}/modality": "reviewer",
    "GET /maml/series/{series}/overlay": "user",
    "GET /proxy/dicom/{path:path}": "user",
    "POST /proxy/dicom/{path:path}": "annotator",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, spec: TaskSpec) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("routes")
    write_cases(folder / "studies", spec, count=3, seed=3, size=16, labelled=1)
    (folder / "studies" / "task.yaml").write_text(TOY)
    conf = {"models": str(folder / "models")}
    with Server(folder / "studies", folder / "log", conf=conf, scoring=False) as running:
        yield running
        assert "Traceback" not in Path(folder / "log").read_text(errors="replace")


def test_every_route_is_on_the_list_with_its_role() -> None:
    found = {
        f"{method} {route.path}": role_of(route)
        for module in ROUTERS
        for route in module.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert found == OPEN


def test_what_monai_label_offers_besides_is_closed_with_a_sentence(server: Server) -> None:
    asked = 0
    for path, methods in stock.openapi()["paths"].items():
        for method in map(str.upper, methods):
            ours = {key.split("{")[0] for key in OPEN if key.startswith(f"{method} ")}
            if f"{method} {path.split('{')[0]}" in ours or method == "HEAD":
                continue
            answer = requests.request(method, server.url + re.sub(r"{[^}]*}", "x", path), timeout=30)
            assert answer.status_code in (404, 405), (method, path, answer.status_code)
            assert "is not offered" in answer.json()["detail"], (method, path, answer.text)
            asked += 1
    assert asked > 15  # batch, model, scoring, wsi, reload, uploads and deletions in the datastore …


def test_nothing_generated_from_the_schema_is_an_error_of_the_server(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal count
            count += 1
            answer = case.call(base_url=server.url, timeout=60)
            assert answer.status_code < 500 or answer.status_code == 503, (case.as_curl_command(), answer.text)

        ask()
    requests.delete(f"{server.url}/train/", timeout=60)
    assert count > 200
