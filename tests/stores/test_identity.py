"""Models and scores belong to the studies that they were learned from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maml_app.cases.spec import TaskSpec
from maml_app.errors import ModelError, StudiesError
from maml_app.stores.folder import FolderStore
from maml_app.versions.registry import ModelRegistry
from tests.builders import touch


def folder(root: Path, spec: TaskSpec) -> FolderStore:
    return FolderStore(touch(root, "A/ct.nii.gz"), spec)


def test_an_identity_stays_when_studies_are_moved(tmp_path: Path, spec: TaskSpec) -> None:
    store = folder(tmp_path / "one", spec)
    assert store.identity().startswith("at-")  # of its path, as long as nobody claims it
    claimed = store.identity(claim=True)
    assert store.identity() == claimed
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert FolderStore(tmp_path / "two", spec).identity() == claimed
    assert folder(tmp_path / "other", spec).identity(claim=True) != claimed


def test_models_of_other_studies_with_the_same_ids_are_refused(tmp_path: Path, spec: TaskSpec) -> None:
    one, other = folder(tmp_path / "one", spec), folder(tmp_path / "other", spec)
    registry = ModelRegistry(tmp_path / "model")
    registry.belongs_to(other)  # nothing is kept yet
    registry.belongs_to(one, claim=True)
    registry.belongs_to(one)
    with pytest.raises(ModelError, match="expected models and scores of these studies, got some of others"):
        registry.belongs_to(other)


def test_two_lists_in_one_folder_are_two(tmp_path: Path, spec: TaskSpec) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('[{"image": "A/ct.nii.gz"}]')
    stores = [FolderStore(tmp_path / name, spec) for name in ("a.json", "b.json")]
    assert stores[0].identity(claim=True) != stores[1].identity(claim=True)


def test_a_damaged_identity_is_told(tmp_path: Path, spec: TaskSpec) -> None:
    store = folder(tmp_path, spec)
    store.identity(claim=True)
    (tmp_path / "maml_labels/studies.json").write_text("{")
    with pytest.raises(StudiesError, match=r"studies\.json: expected the id of these studies"):
        store.identity()
