"""The tasks that MONAI Label calls, on real studies at toy size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import HTTPException

from maml_app.cases.spec import TaskSpec
from maml_app.stores.folder import FolderStore
from maml_app.tasks.datastore import CaseDatastore
from maml_app.tasks.infer import SegmentCase
from maml_app.tasks.train import TrainEnsemble
from maml_app.versions.registry import ModelRegistry


@pytest.fixture(autouse=True)
def _leave_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(os, "setpriority", lambda *arguments: None)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models")


@pytest.fixture
def datastore(store: FolderStore, spec: TaskSpec) -> CaseDatastore:
    return CaseDatastore(store, spec, str(store.studies))


@pytest.fixture
def trainer(store: FolderStore, spec: TaskSpec, registry: ModelRegistry) -> TrainEnsemble:
    return TrainEnsemble(store, spec, registry)


@pytest.fixture
def infer(store: FolderStore, spec: TaskSpec, registry: ModelRegistry) -> SegmentCase:
    return SegmentCase(store, spec, registry)


def refused(call: Any, status: int, message: str) -> None:
    with pytest.raises(HTTPException) as raised:
        call()
    assert raised.value.status_code == status
    assert message in str(raised.value.detail)
