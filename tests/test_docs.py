"""What the documents point to is there, and the reference has every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from fastapi.routing import APIRoute

from maml_app.__main__ import COMMANDS
from maml_app.network.settings import Loss
from maml_app.server.application import ROUTERS
from maml_app.server.forms import InferParams, LabelParams
from maml_app.settings import Settings
from scripts.reference import commands_page, settings_page, task_page
from scripts.reference_http import http_page
from tests.harness.server import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "apps").rglob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED = {f"docs/reference/{name}.md" for name in ("settings", "task", "commands", "http")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve()
        assert path.exists() or str(path.relative_to(ROOT)) in GENERATED, f"{page}: {target}"


def test_the_reference_has_every_setting_key_and_command() -> None:
    assert all(f"| `{name}` |" in settings_page() for name in Settings.model_fields)
    assert all(f"| `{name}` |" in task_page() for name in (*Loss.model_fields, "aliases", "elastic_mm", "words"))
    assert all(f"## maml-app {name}" in commands_page() for name in (*COMMANDS, "models rollback"))


def test_the_reference_has_every_route_with_who_may_and_what_it_takes() -> None:
    page = http_page()
    routes = [route for module in ROUTERS for route in module.router.routes if isinstance(route, APIRoute)]
    assert all(f"## {method} {route.path_format}\n" in page for route in routes for method in route.methods or ())
    taken = page.split("## PUT /datastore/label\n")[1].split("\n## ")[0]
    assert "- Who: annotator\n" in taken
    assert "| form field | `label` | file: NIfTI or NRRD on the grid of an image of the case | required |" in taken
    assert all(f"| JSON | `{name}` |" in page for name in (*InferParams.model_fields, *LabelParams.model_fields))


def test_containers_run_as_nobody_on_a_root_that_is_not_written() -> None:
    """There is no engine here to build with: what can be told from the files."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    served = compose["services"]["app"]
    assert served["read_only"] is True
    assert served["environment"]["FORWARDED_ALLOW_IPS"]  # the proxy's address is none of those believed without it
    assert all(port.startswith("127.0.0.1:") for port in served["ports"])
    assert compose["networks"]["inside"]["internal"] is True
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "USER 10001" in dockerfile
    lines = re.findall(r"^COPY (?!--)((?:.*\\\n)*.*) \S+$", dockerfile, re.M)
    copied = {name for line in lines for name in line.split()}
    assert all((ROOT / name).exists() for name in copied - {"\\"})
