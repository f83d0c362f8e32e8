"""What tests share: a toy task, a toy network, phantom cases at toy size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from maml_app.cases.spec import TaskSpec, parse_task
from maml_app.lean import lean_path, spare_imports
from maml_app.network.settings import Network
from maml_app.phantom.scene import write_cases
from maml_app.stores.folder import FolderStore

spare_imports()
TOY = """
name: toy
title: Toy task
modalities:
  - {name: ct, kind: CT, files: [ct], window: [-160, 240]}
  - {name: pet, kind: PET, files: [pet]}
  - {name: mr_t1, kind: MR, files: [mr_t1, t1]}
reference: ct
labels:
  - name: organ
    value: 1
    colour: [0, 255, 0]
    category: {value: "123037004", meaning: Anatomical Structure}
    type: {value: "10200004", meaning: Liver}
  - name: lesion
    value: 2
    colour: [255, 0, 0]
    category: {value: "49755003", meaning: Morphologically Altered Structure}
    type: {value: "108369006", meaning: Neoplasm}
    aliases: [tumour]
conventions:
  theirs: {1: 1, 4: 2}
preprocess: {spacing_mm: [8.0, 8.0, 8.0]}
network: {channels: [4, 6], strides: [[1, 1, 1], [2, 2, 2]]}
training: {steps: 3, batch: 2, patch: [16, 16, 16], refine_steps: 0, folds: 0}
"""

NETWORK = Network(channels=(4, 6, 8), strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)))

# files that keep a worker for minutes: begun first, so that none is left alone with one at the end
LONGEST = (
    *("test_ohif.py", "test_archive_server.py", "test_server.py", "test_train.py", "test_optimise.py"),
    *("test_machine.py", "test_registry.py"),
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)  # toy sizes: threads would only wait for each other


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ledgers and downloads of tests, and of the programs that they start, stay among the tests' own files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAML_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MAML_ENGINE", "torch")  # a toy network takes longer to compile than to run
        patch.setenv("PYTHONPATH", lean_path())  # servers and trainings begin as those of `maml-app serve`
        yield


@pytest.fixture(scope="session")
def spec() -> TaskSpec:
    return parse_task(TOY, "toy.yaml")


@pytest.fixture
def studies(tmp_path: Path, spec: TaskSpec) -> Path:
    """Five small cases, the first four labelled; the fourth lacks ct."""
    folder = tmp_path / "studies"
    write_cases(folder, spec, count=5, seed=3, size=20, labelled=4)
    return folder


@pytest.fixture
def store(studies: Path, spec: TaskSpec) -> FolderStore:
    return FolderStore(studies, spec)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (places.get(item.path.name, len(places)), "integration" not in item.path.parts))


def real(name: str) -> Path:
    """A folder of the real data that may lie beside a checkout; the test is skipped, saying so, where it does not."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder}")
    return folder
