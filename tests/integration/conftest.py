"""A real Orthanc that holds the phantom as DICOM, for the tests of archive and viewer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from monailabel.client import MONAILabelClient

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.imaging.files import write_label
from maml_app.imaging.volume import Array
from maml_app.phantom.dicom import DicomStudy, make_study
from maml_app.phantom.scene import PhantomCase
from maml_app.settings import Settings
from maml_app.stores.choice import open_studies
from maml_app.stores.dicomweb import DicomWebStore
from tests.conftest import TOY
from tests.harness.orthanc import Orthanc

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


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, spec: TaskSpec) -> Iterator[Archive]:
    studies = [make_study(spec, 3, number, 32, ["ct"] if number == 3 else [], number < 3) for number in range(5)]
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        for study, _ in studies:
            orthanc.add(study.instances())
        yield Archive(orthanc, studies)


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


@pytest.fixture
def store(archive: Archive, spec: TaskSpec, tmp_path: Path) -> DicomWebStore:
    return opened(archive.url, spec, tmp_path / "cache")


def wait_for_training(client: MONAILabelClient) -> dict[str, Any]:
    """What is told of the training that runs, when it has ended."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        status = client.train_status()
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            return dict(status)
        time.sleep(0.5)
    raise AssertionError("training did not end")
