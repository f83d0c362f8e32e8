"""A server with accounts that several people work with at a time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests

from maml_app.accounts import Accounts, Role
from maml_app.cases.spec import TaskSpec, parse_task
from maml_app.imaging.files import read_grid
from maml_app.phantom.scene import write_cases
from maml_app.stores.folder import FolderStore
from tests.conftest import TOY
from tests.harness.server import Server
from tests.harness.waiting import until

PASSWORD = "a long enough one"
PEOPLE = {"anna": Role.ANNOTATOR, "ben": Role.ANNOTATOR, "carl": Role.ANNOTATOR, "rita": Role.REVIEWER}
CASES = 6


@dataclass
class Shared:
    """A server that several people work with."""

    server: Server
    studies: Path
    models: Path

    def ask(self, method: str, path: str, user: str, **more: Any) -> requests.Response:
        return requests.request(method, self.server.url + path, auth=(user, PASSWORD), timeout=120, **more)

    def drawn(self, case: str, number: int) -> bytes:
        """A label map in which a number can be read again: so many voxels are set."""
        grid = read_grid_of(self.studies, case)
        voxels = np.zeros(grid.shape, np.uint8)
        voxels.reshape(-1)[:number] = 2
        return gzip.compress(nib.Nifti1Image(voxels, grid.affine).to_bytes(), 1)

    def save(self, user: str, case: str, number: int, **told: Any) -> requests.Response:
        files = {"label": ("label.nii.gz", self.drawn(case, number))}
        path = f"/datastore/label?image={case}"
        return self.ask("PUT", path, user, files=files, data={"params": json.dumps(told)})

    def history(self, case: str, user: str = "rita") -> list[dict[str, Any]]:
        answer = self.ask("GET", f"/maml/cases/{case}/history", user)
        assert answer.ok, answer.text
        return list(answer.json())

    def trained(self) -> str:
        """The log of the training that runs, when it has ended."""

        def ended() -> list[str] | None:
            told = self.ask("GET", "/train/", "rita").json()
            return None if told["status"] in ("SUBMITTED", "RUNNING") else list(told["details"])

        return "\n".join(until(ended, "the end of the training"))

    def say(self, user: str, case: str, label: str, what: str, **said: Any) -> requests.Response:
        return self.ask("POST", f"/maml/cases/{case}/labels/{label}/{what}", user, json=said)


def read_grid_of(studies: Path, case: str) -> Any:
    return read_grid(next(iter(FolderStore(studies, parse_task(TOY, "toy")).case(case).images.values())))


@contextmanager
def people_at(folder: Path, spec: TaskSpec, more: str = "", scoring: bool = False) -> Iterator[Shared]:
    """A folder of cases without labels behind a server, which may look at them; `more` is added to the task."""
    write_cases(folder / "studies", spec, count=CASES, seed=3, size=16, labelled=0)
    (folder / "studies" / "task.yaml").write_text(TOY + more)
    for name, role in PEOPLE.items():
        Accounts(folder / "users.json").add(name, PASSWORD, role)
    conf = {"models": str(folder / "models"), "users": str(folder / "users.json"), "cache": str(folder / "cache")}
    with Server(folder / "studies", folder / "log", conf=conf, ready="/auth/", scoring=scoring) as server:
        yield Shared(server, folder / "studies", folder / "models" / "toy")
