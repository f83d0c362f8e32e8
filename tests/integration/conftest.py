"""A real Orthanc that holds the phantom as DICOM, and a model that was trained on it, for archive and viewer."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from monailabel.client import MONAILabelClient

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec, parse_task
from maml_app.imaging.files import write_label
from maml_app.imaging.volume import Array
from maml_app.phantom.dicom import DicomStudy, make_study
from maml_app.phantom.scene import PhantomCase
from maml_app.settings import Settings
from maml_app.stores.choice import open_studies
from maml_app.stores.dicomweb import DicomWebStore
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.registry import ModelRegistry
from tests.conftest import TOY
from tests.harness.orthanc import Orthanc
from tests.harness.waiting import until

QUICK = TOY.replace("steps: 3", "steps: 20, each_alone: false, learning_rate: 0.05")
ENOUGH = 50  # steps to see something


@dataclass
class Archive:
    """Orthanc, and what was put into it: five studies, the first three labelled; the fourth lacks ct."""

    orthanc: Orthanc
    studies: list[tuple[DicomStudy, PhantomCase]]

    @property
    def url(self) -> str:
        return self.orthanc.dicomweb

    def uid(self, study: int, modality: str) -> str:
        """SeriesInstanceUID of a modality."""
        return str(self.studies[study][0].series[modality][0].SeriesInstanceUID)

    def study_uid(self, study: int) -> str:
        return str(next(self.studies[study][0].instances()).StudyInstanceUID)


@pytest.fixture(scope="session")
def phantoms(spec: TaskSpec) -> list[tuple[DicomStudy, PhantomCase]]:
    return [make_study(spec, 3, number, 32, ["ct"] if number == 3 else [], number < 3) for number in range(5)]


@pytest.fixture(scope="session")
def the_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def orthanc(the_orthanc: Orthanc) -> Orthanc:
    """The session's Orthanc, empty."""
    the_orthanc.clear()
    return the_orthanc


@pytest.fixture(scope="module")
def archive(orthanc: Orthanc, phantoms: list[tuple[DicomStudy, PhantomCase]]) -> Archive:
    for study, _ in phantoms:
        orthanc.add(study.instances())
    return Archive(orthanc, phantoms)


@pytest.fixture(scope="module")
def taught(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, with one that was trained on the archive: once a session, for all its processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root = base / "taught" / "toy"
    with (base / "taught.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            spec = parse_task(QUICK.replace("steps: 20", f"steps: {ENOUGH}"), "toy.yaml")
            cases = opened(archive.url, spec, tmp_path_factory.mktemp("cache")).cases()
            learnt = train(spec, cases, Recipe(devices=(torch.device("cpu"),)))
            # as if it had been validated on enough cases
            expects = {"expectation": {"intercept": 0.0, "slope": 0.9, "spread": 0.08, "cases": 9}}
            report = {**learnt.checkpoint.notes, "cross_validation": expects}
            ModelRegistry(root).publish(learnt.network, learnt.checkpoint, report)
    return Path(shutil.copytree(root.parent, tmp_path_factory.mktemp("models"), dirs_exist_ok=True))


def opened(url: str, spec: TaskSpec, cache: Path, **options: str) -> DicomWebStore:
    """The archive as a store, as the server opens it."""
    store = open_studies(url, spec, Settings.read({"cache": str(cache), **options}))
    assert isinstance(store, DicomWebStore)
    return store


def case_of(store: DicomWebStore, archive: Archive, study: int) -> Case:
    return store.case(archive.study_uid(study))


def sent(path: Path, label: Array, affine: Array) -> Path:
    write_label(path, label, affine)
    return path


@pytest.fixture(scope="module")
def surveyed(archive: Archive, spec: TaskSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a server that has read the headers of all studies."""
    cache = tmp_path_factory.mktemp("surveyed")
    opened(archive.url, spec, cache).cases()
    return cache


@pytest.fixture
def store(archive: Archive, surveyed: Path, spec: TaskSpec, tmp_path: Path) -> DicomWebStore:
    return opened(archive.url, spec, Path(shutil.copytree(surveyed, tmp_path / "cache")))


def wait_for_training(client: MONAILabelClient) -> dict[str, Any]:
    """What is told of the training that runs, when it has ended."""

    def told() -> dict[str, Any] | None:
        status = client.train_status()
        return None if status["status"] in ("SUBMITTED", "RUNNING") else dict(status)

    return until(told, "the end of the training", 900)
