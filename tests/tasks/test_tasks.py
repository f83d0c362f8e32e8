"""What MONAI Label calls, called directly on real studies at toy size."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from fastapi import HTTPException

from maml_app.cases.case import FileRef
from maml_app.cases.spec import TaskSpec
from maml_app.imaging.files import read_image, read_label, write_label
from maml_app.learning.registry import ModelRegistry
from maml_app.stores.folder import FolderStore
from maml_app.tasks.datastore import CaseDatastore
from maml_app.tasks.infer import SegmentCase
from maml_app.tasks.strategy import FirstCase, RandomCase
from maml_app.tasks.train import TrainEnsemble


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


def test_before_training_the_answer_is_clear(infer: SegmentCase) -> None:
    assert infer.is_valid()
    refused(lambda: infer({"image": "phantom_000"}), 409, "there is no model for Toy task yet: save some labels")


def test_an_answer_lies_on_the_asked_grid_and_says_what_was_used(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore, store: FolderStore, tmp_path: Path
) -> None:
    assert trainer({}, datastore)["version"] == "v0001"
    case = store.case("phantom_000")
    for asked in ("phantom_000", "phantom_000@pet", "phantom_000@mr_t1"):
        modality = asked.partition("@")[2] or "ct"
        for extension in (".nrrd", ".nii.gz"):
            request = {"image": asked, "result_extension": extension, "result_dtype": "uint8", "result_compress": False}
            file, params = infer(request)
            assert file.endswith(extension)
            assert read_label(Path(file)).grid.same_as(read_image(case.images[modality]).grid)
            assert params["grid"] == modality
    assert params["label_names"] == {"organ": 1, "lesion": 2}
    assert (params["model_version"], params["modalities_used"]) == ("v0001", ["ct", "pet", "mr_t1"])
    assert set(params["volume_ml"]) == {"organ", "lesion"}
    assert 0 <= params["uncertainty"] <= 1
    _, params = infer({"image": "phantom_003"})
    assert (params["grid"], params["modalities_missing"]) == ("pet", ["ct"])
    # by option, as Slicer sends it: a list comes back as its first item, or whole
    assert infer({"image": "phantom_000", "grid": "pet"})[1]["grid"] == "pet"
    assert infer({"image": "phantom_000", "grid": ["reference", "ct"]})[1]["grid"] == "ct"
    refused(lambda: infer({"image": "phantom_003", "grid": "ct"}), 404, "expected grid to be one of")
    refused(lambda: infer({"image": "nobody"}), 404, "unknown id 'nobody'")
    refused(lambda: infer({"image": "/etc/passwd"}), 404, "unknown id '/etc/passwd'")
    for extension in (".png", ".x/../../escaped.nii.gz"):
        request = {"image": "phantom_000", "result_extension": extension}
        refused(lambda request=request: infer(request), 400, "expected result_extension as .nii.gz, .nii or .nrrd")


def test_a_new_version_answers_at_once_and_a_damaged_one_is_refused(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry
) -> None:
    trainer({}, datastore)
    assert infer({"image": "phantom_000"})[1]["model_version"] == "v0001"
    trainer({"steps": "2"}, datastore)  # text, as some clients send numbers
    assert infer({"image": "phantom_000"})[1]["model_version"] == "v0002"
    registry.path("v0002").write_bytes(b"broken")
    fresh = SegmentCase(infer.source, infer.spec, registry)
    refused(lambda: fresh({"image": "phantom_000"}), 409, "damaged or different file")


def test_conventions_are_written_on_request(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore
) -> None:
    trainer({}, datastore)
    file, _ = infer({"image": "phantom_000", "convention": "theirs"})
    assert set(np.unique(read_label(Path(file)).voxels)) <= {0, 1, 4}


def test_an_uploaded_file_needs_its_modality(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path
) -> None:
    trainer({}, datastore)
    upload = Path(tempfile.gettempdir()) / f"{uuid.uuid4().hex}.nii.gz"
    shutil.copy(studies / "phantom_000" / "pet.nii.gz", upload)
    try:
        refused(lambda: infer({"image": str(upload)}), 404, 'expected "grid" to name its modality')
        _, params = infer({"image": str(upload), "grid": "pet"})
        assert params["modalities_used"] == ["pet"]
    finally:
        upload.unlink()


def test_training_tells_its_progress_and_its_validation(
    trainer: TrainEnsemble, datastore: CaseDatastore, capsys: pytest.CaptureFixture[str], spec: TaskSpec
) -> None:
    wider = spec.model_copy(update={"training": spec.training.model_copy(update={"validation": 0.55})})
    trainer.spec = wider
    assert trainer.stats() == {}
    result = trainer({"steps": 2, "seed": 3}, datastore)
    printed = capsys.readouterr().out
    assert "4 of 5 cases have a final label" in printed
    assert "no model yet: there is nothing to compare with" in printed
    assert "train 2/2: loss" in printed
    assert "validation Dice, pet+mr_t1 (1 cases): organ " in printed
    assert "published v0001" in printed
    assert sorted(result["validation"]["subsets"]) == ["mr_t1", "pet", "pet+mr_t1"]  # phantom_003 lacks ct
    stats = trainer.stats()
    assert (stats["version"], stats["epoch"]) == ("v0001", 2)
    assert isinstance(stats["best_metric"], float)
    trainer({"steps": 1}, datastore)
    assert "training goes on from v0001" in capsys.readouterr().out


def test_a_model_that_knows_the_validation_cases_is_neither_start_nor_rival(
    trainer: TrainEnsemble,
    datastore: CaseDatastore,
    studies: Path,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While all labels are of validation patients they are trained on; that model must not be scored on them later."""
    longer = trainer.spec.training.model_copy(update={"validation": 0.55})  # the side of phantom_003
    trainer.spec = trainer.spec.model_copy(update={"training": longer})
    for number in range(3):
        (studies / f"phantom_{number:03d}" / "label.nii.gz").rename(studies / f"kept-{number}")
    trainer({}, datastore)
    assert registry.report("v0001")["trained_on"] == {"phantom_003": "final-0000"}
    for number in range(3):
        (studies / f"kept-{number}").rename(studies / f"phantom_{number:03d}" / "label.nii.gz")
    capsys.readouterr()
    trainer({}, datastore)
    assert "v0001 was trained on validation cases (phantom_003): not compared with" in capsys.readouterr().out
    report = registry.report("v0002")
    assert (report["warm_start"], report["gate"], report["parent"]) == (False, None, None)
    assert registry.served() == "v0002"


def test_a_model_of_poisoned_labels_is_not_served(
    trainer: TrainEnsemble,
    infer: SegmentCase,
    datastore: CaseDatastore,
    store: FolderStore,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faster = {"validation": 0.55, "learning_rate": 0.02}  # keeps phantom_003 aside
    trainer.spec = trainer.spec.model_copy(update={"training": trainer.spec.training.model_copy(update=faster)})
    trainer({"steps": 150}, datastore)
    good = trainer.stats()["best_metric"]
    assert good > 0.2
    for case in store.cases():
        if case.label and case.id != "phantom_003":
            label = read_label(case.label.path)
            flipped = store.studies.parent / "flipped.nii.gz"
            write_label(flipped, (label.voxels == 0).astype(np.uint8), label.affine)
            store.save_label(case.id, flipped, "final", {})
    result = trainer({"steps": 60}, datastore)
    printed = capsys.readouterr().out
    assert (result["version"], result["served"], registry.served()) == ("v0002", "v0001", "v0001")
    assert "worse than v0001: organ from " in printed
    assert "v0002 is kept as a candidate and v0001 stays served" in printed
    assert infer({"image": "phantom_000"})[1]["model_version"] == "v0001"
    assert trainer.stats()["best_metric"] == good
    gate = registry.report("v0002")["gate"]
    assert (gate["publish"], gate["against"], gate["cases"]) == (False, "v0001", 1)
    registry.serve("v0002")
    assert infer({"image": "phantom_000"})[1]["model_version"] == "v0002"
    assert registry.rollback() == "v0001"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"steps": "many"}, "steps: expected a whole number, got 'many'"),
        ({"steps": 0}, "steps: Input should be greater"),
    ],
)
def test_training_mistakes_are_one_line_and_a_failed_exit(
    trainer: TrainEnsemble,
    datastore: CaseDatastore,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
    request_: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        trainer(request_, datastore)
    assert exit_.value.code == 1
    assert f"Training failed: {message}" in capsys.readouterr().out
    assert registry.versions() == []


def test_running_out_of_memory_is_told_with_a_remedy(
    trainer: TrainEnsemble,
    datastore: CaseDatastore,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr("maml_app.tasks.train.train", full)
    with pytest.raises(SystemExit):
        trainer({}, datastore)
    assert "Training failed: out of memory; lower training.batch or training.patch" in capsys.readouterr().out
    assert list(registry.root.iterdir()) == []


def test_the_datastore_lists_cases_and_their_labels(datastore: CaseDatastore, studies: Path) -> None:
    assert datastore.list_images() == [f"phantom_{number:03d}" for number in range(5)]
    assert datastore.get_unlabeled_images() == ["phantom_004"]
    assert len(datastore.datalist()) == len(datastore.get_labeled_images()) == 4
    assert datastore.get_image_uri("phantom_003") == str(studies / "phantom_003" / "pet.nii.gz")
    info = datastore.get_image_info("phantom_003")
    assert (info["missing"], info["images"]["pet"]) == (["ct"], "phantom_003@pet")
    assert datastore.status() == {"total": 5, "completed": 4, "label_tags": {"final": 4}, "incomplete": 1}
    label = datastore.get_label_by_image_id("phantom_000", "final")
    assert label == "phantom_000@final-0000"
    assert datastore.get_label_uri(label, "final") == str(studies / "phantom_000" / "label.nii.gz")
    assert datastore.get_label_info("phantom_000", "final")["version"] == 0
    assert datastore.json()["objects"]["phantom_000"]["labels"]["final"]["info"]["id"] == "final-0000"
    refused(lambda: datastore.get_label_uri("phantom_004", "final"), 404, "expected a label of case 'phantom_004'")
    refused(lambda: datastore.get_image_uri("../x"), 404, "unknown id")


def test_nothing_is_removed_or_overwritten_through_the_datastore(datastore: CaseDatastore) -> None:
    for call in (
        lambda: datastore.remove_image("phantom_000"),
        lambda: datastore.remove_label("phantom_000", "final"),
        lambda: datastore.update_label_info("phantom_000", "final", {}),
        lambda: datastore.add_image("x", "y", {}),
        lambda: datastore.get_dataset_archive(None),
    ):
        refused(call, 405, "Not done")


def test_a_channel_of_a_4d_file_is_handed_out_as_3d(tmp_path: Path, spec: TaskSpec) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "CT", "1": "PET", "2": "T1"}}')
    voxels = np.random.default_rng(0).uniform(0, 5, (6, 5, 4, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2, 3, 4, 1])), tmp_path / "imagesTr" / "a.nii.gz")
    datastore = CaseDatastore(FolderStore(tmp_path, spec), spec, str(tmp_path))
    file = datastore.get_image_uri("a@pet")
    assert np.allclose(read_image(FileRef(Path(file))).voxels, voxels[..., 1])
    assert datastore.get_image_uri("a@pet") == file


def test_strategies_offer_unlabelled_cases_only(datastore: CaseDatastore, studies: Path) -> None:
    for number in (1, 2):
        (studies / f"phantom_{number:03d}" / "label.nii.gz").unlink()
    first = FirstCase()({}, datastore)
    assert first == {"id": "phantom_001", "waiting": 3}
    picked = {(RandomCase()({}, datastore) or {})["id"] for _ in range(60)}
    assert picked == {"phantom_001", "phantom_002", "phantom_004"}
    for number in (1, 2, 4):
        shutil.copy(studies / "phantom_000" / "label.nii.gz", studies / f"phantom_{number:03d}" / "label.nii.gz")
    assert FirstCase()({}, datastore) is None
