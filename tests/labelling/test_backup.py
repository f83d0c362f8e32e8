"""A backup holds all that is kept, also while people save, and comes back without overwriting anything."""

from __future__ import annotations

import stat
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from maml_app.cases.history import Decision, State, now
from maml_app.cases.spec import TaskSpec
from maml_app.errors import StudiesError
from maml_app.imaging.files import read_grid, read_label, write_label
from maml_app.labelling.backup import backup, bring_back
from maml_app.stores.folder import FolderStore
from maml_app.versions.registry import ModelRegistry
from tests.builders import keep

CASE = "phantom_004"


def save(store: FolderStore, folder: Path, number: int, case: str = CASE) -> None:
    grid = read_grid(store.case(case).images["ct"])
    voxels = np.zeros(grid.shape, np.uint8)
    voxels.reshape(-1)[: number + 1] = 2
    file = folder / f"{number}.nii.gz"
    write_label(file, voxels, grid.affine)
    keep(store, case, file, author=f"reader {number}")


def test_it_is_whole_while_people_save_and_comes_back(
    store: FolderStore, studies: Path, spec: TaskSpec, tmp_path: Path
) -> None:
    store.identity(claim=True)
    store.update_info(CASE, {"note": "é"})
    save(store, tmp_path, 0)
    store.decide(Decision(case=CASE, label="final-0001", state=State.REVIEWED, by="rita", at=now()))
    models = tmp_path / "models"
    (models / "toy" / "v0001").mkdir(parents=True)
    (models / "toy" / "v0001" / "model.safetensors").write_bytes(b"weights")
    (models / "toy" / "served").write_text("v0001\n")
    (models / "toy" / "prepared").mkdir()
    (models / "toy" / "prepared" / "big").write_bytes(b"computed again")
    ended = threading.Event()

    def go_on() -> None:
        number = 1
        while not ended.is_set():
            save(store, tmp_path, number)
            number += 1

    saving = threading.Thread(target=go_on)
    saving.start()
    try:
        counts = [backup(store, models, tmp_path / f"copy{number}.tar") for number in range(5)]
    finally:
        ended.set()
        saving.join()
    assert counts == sorted(counts)
    with tarfile.open(tmp_path / "copy4.tar") as tar:
        names = tar.getnames()
    assert "models/toy/v0001/model.safetensors" in names
    assert not any("prepared" in name or ".part" in name for name in names)

    # onto the studies as they were before anyone labelled
    kept = studies / "maml_labels"
    kept.rename(tmp_path / "lost")
    fresh = FolderStore(studies, spec)
    assert fresh.history(CASE) == []
    bring_back(tmp_path / "copy4.tar", fresh, tmp_path / "models2")
    assert (tmp_path / "models2/toy/served").read_text() == "v0001\n"
    history = FolderStore(studies, spec).history(CASE)
    assert history[0].state == State.REVIEWED
    for found in history:
        label = read_label(kept / CASE / f"{found.entry.label}.nii.gz")
        assert found.entry.author == f"reader {int((label.voxels > 0).sum()) - 1}"
    assert fresh.info(CASE)["note"] == "é"
    assert fresh.identity() == store.identity()
    assert bring_back(tmp_path / "copy4.tar", fresh, tmp_path / "models2") == 0  # all is there


def test_it_holds_every_label_and_nothing_that_is_computed_again_for_its_owner_alone(
    store: FolderStore, studies: Path, tmp_path: Path
) -> None:
    names = ("scores", "seen")  # of cases, and of folders beside the models
    for name, case in zip(names, ("phantom_002", CASE), strict=True):
        (studies / case).rename(studies / name)
    for name in names:
        save(store, tmp_path, 0, name)
    registry = ModelRegistry(tmp_path / "models" / "scores")
    for folder in (registry.root / "v0001", registry.prepared, registry.scores, registry.seen / "v0001-x"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"content")
    copy = tmp_path / "copy.tar"
    backup(store, tmp_path / "models", copy)
    with tarfile.open(copy) as tar:
        held = tar.getnames()
    assert {f"labels/{name}/final-0001.nii.gz" for name in names} < set(held)
    assert [name for name in held if name.startswith("models/")] == ["models/scores/v0001/file"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_nothing_is_overwritten(store: FolderStore, studies: Path, tmp_path: Path) -> None:
    save(store, tmp_path, 0)
    backup(store, None, tmp_path / "copy.tar")
    with pytest.raises(StudiesError, match="expected a file that is not there yet"):
        backup(store, None, tmp_path / "copy.tar")
    label = studies / "maml_labels" / CASE / "final-0001.nii.gz"
    label.write_bytes(b"another")
    (studies / "maml_labels" / CASE / ".lock").unlink()
    with pytest.raises(StudiesError, match=r"final-0001\.nii\.gz: is there and differs from the backup"):
        bring_back(tmp_path / "copy.tar", store, None)
    assert label.read_bytes() == b"another"


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "labels/../../evil", "elsewhere/file"])
def test_what_is_no_backup_is_refused(store: FolderStore, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(StudiesError, match="expected"):
        bring_back(tmp_path / "evil.tar", store, None)
    (tmp_path / "text.tar").write_text("text")
    with pytest.raises(StudiesError, match="could not be read"):
        bring_back(tmp_path / "text.tar", store, None)
