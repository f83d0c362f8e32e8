"""The wheel: what is in it, and that it serves where there is no checkout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from maml_app.version import VERSION
from tests.harness.server import ROOT, free_port
from tests.harness.waiting import until


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (found,) = folder.iterdir()
    return found


def test_the_wheel_holds_the_app_its_tasks_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"maml_app-{VERSION}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "maml_app/apps/brats_mr/task.yaml" in names
    assert "maml_app/viewer/main.js" in names
    assert {name.split("/")[0] for name in names} == {"maml_app", f"maml_app-{VERSION}.dist-info"}
    assert not [name for name in names if name.endswith((".log", ".safetensors")) or "/model/" in name]


def test_the_wheel_makes_phantoms_and_serves_them(wheel: Path, tmp_path: Path) -> None:
    """Installed into a folder of its own, run from elsewhere: nothing of the checkout is seen."""
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "MONAI_LABEL_TRACKING_ENABLED": "false"}

    def maml_app(*words: str) -> str:
        command = [sys.executable, "-m", "maml_app", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout

    assert maml_app("--version") == f"maml-app {VERSION}\n"
    studies = tmp_path / "my studies"  # a space is nothing special
    maml_app("phantom", "--out", str(studies), "--count", "2", "--size", "16")
    checked = json.loads(maml_app("check", "--studies", str(studies), "--json"))
    assert [case["case"] for case in checked["cases"]] == ["phantom_000", "phantom_001"]
    port = free_port()
    command = [sys.executable, "-m", "maml_app", "serve", "--studies", str(studies), "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment, start_new_session=True
        )
    try:

        def answered() -> dict[str, Any] | None:
            assert server.poll() is None, (tmp_path / "log").read_text()
            with suppress(requests.ConnectionError):
                return dict(requests.get(f"http://127.0.0.1:{port}/info/", timeout=5).json())
            return None

        info = until(answered, "the server's answer")
        assert info["name"] == "MAML - sarcoma_pet_ct_mr"
        assert info["version"] == VERSION
        assert (tmp_path / "maml-home" / "main.py").is_file()
        printed = (tmp_path / "log").read_text()
        assert f"studies   {studies}: 2 cases, 2 labelled" in printed
        assert "who       this machine only, without a login" in printed
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
