"""The infer task."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import HTTPException

from maml_app.cases.spec import Convention, TaskSpec
from maml_app.imaging.files import read_image, read_label
from maml_app.network.checkpoint import open_checkpoint
from maml_app.network.window import predict_opinions
from maml_app.stores.folder import FolderStore
from maml_app.tasks.datastore import CaseDatastore
from maml_app.tasks.infer import SegmentCase
from maml_app.tasks.train import TrainEnsemble
from maml_app.versions import predict
from maml_app.versions.predict import segment
from maml_app.versions.registry import ModelRegistry
from tests.tasks.conftest import refused


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


def test_the_dice_to_expect_is_told_where_enough_cases_were_validated_on(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore
) -> None:
    version = trainer({}, datastore)["version"]
    assert "expected_dice" not in infer({"image": "phantom_000"})[1]  # a few toy cases tell nothing
    known = {"intercept": 0.25, "slope": 0.5, "spread": 0.0814, "cases": 7}
    infer.registry.annotate(version, cross_validation={"expectation": known})
    found = segment(infer.model(), infer.source.case("phantom_000"), "ct", infer.spec)
    promised = np.mean(list(found.promised.values()))
    answer = infer({"image": "phantom_000"})[1]
    assert answer["expected_dice"] == pytest.approx(0.25 + 0.5 * promised, abs=0.001)
    assert answer["expected_dice_spread"] == 0.081


def test_a_new_version_answers_at_once(infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore) -> None:
    trainer({}, datastore)
    assert infer({"image": "phantom_000"})[1]["model_version"] == "v0001"
    trainer({"steps": "2"}, datastore)  # text, as some clients send numbers
    assert infer({"image": "phantom_000"})[1]["model_version"] == "v0002"


def test_conventions_are_written_on_request(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore
) -> None:
    trainer({}, datastore)
    file, _ = infer({"image": "phantom_000", "convention": "theirs"})
    assert set(np.unique(read_label(Path(file)).voxels)) <= {0, 1, 4}


def test_no_answer_is_in_a_convention_that_would_come_back_as_something_else(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore
) -> None:
    trainer({}, datastore)
    turned = infer.spec.model_copy(update={"conventions": {"turned": Convention(values={1: 2, 2: 1})}})
    other = SegmentCase(infer.source, turned, infer.registry)
    assert "convention" not in other.config()
    refused(lambda: other({"image": "phantom_000", "convention": "turned"}), 400, "expected a label convention of")


def test_memory_that_is_full_is_told(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer({}, datastore)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(predict, "predict_opinions", full)
    refused(lambda: infer({"image": "phantom_000"}), 400, "case phantom_000: expected memory for ")


def test_an_uploaded_file_needs_its_modality(
    infer: SegmentCase, trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path, tmp_path: Path
) -> None:
    trainer({}, datastore)
    upload = str(shutil.copy(studies / "phantom_000" / "pet.nii.gz", tmp_path / "sent.nii.gz"))
    refused(lambda: infer({"upload": upload}), 404, 'expected "grid" to name its modality')
    file, params = infer({"upload": upload, "grid": "pet", "folder": str(tmp_path)})
    assert params["modalities_used"] == ["pet"]
    assert Path(file).parent == tmp_path
    refused(lambda: infer({"image": upload, "grid": "pet"}), 404, "unknown id")  # a path is no id


def test_a_server_that_was_restarted_knows_the_cases_it_saw(
    infer: SegmentCase,
    trainer: TrainEnsemble,
    datastore: CaseDatastore,
    studies: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer({}, datastore)
    asked = []

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return predict_opinions(*arguments)

    monkeypatch.setattr(predict, "predict_opinions", counted)

    def restarted(spec: TaskSpec = infer.spec, seen_gb: float = 1.0) -> SegmentCase:
        for shelf in kept:
            shelf.settle()
        task = SegmentCase(FolderStore(studies, spec), spec, infer.registry, seen_gb=seen_gb)
        kept.append(task.model().kept._shelf or kept[0])
        return task

    kept: list[Any] = []
    first = read_label(Path(restarted()({"image": "phantom_000"})[0])).voxels
    again = read_label(Path(restarted()({"image": "phantom_000"})[0])).voxels
    np.testing.assert_array_equal(first, again)
    assert len(asked) == 1
    sent = str(shutil.copy(studies / "phantom_000" / "pet.nii.gz", studies.parent / "sent.nii.gz"))
    for _ in range(2):  # what is in no study is not kept
        restarted()({"upload": sent, "grid": "pet", "folder": str(studies.parent)})
    assert len(asked) == 3
    # prepared otherwise, or a model that was trained since
    turned = infer.spec.model_copy(update={"reference": infer.spec.modality_names[1]})
    restarted(turned)({"image": "phantom_000"})
    assert len(asked) == 4
    trainer({"steps": "2"}, datastore)
    before = len(asked)
    restarted()({"image": "phantom_000"})
    restarted(seen_gb=0)({"image": "phantom_000"})
    assert len(asked) == before + 2


def test_a_damaged_model_is_passed_over_for_the_last_good_one(
    infer: SegmentCase,
    trainer: TrainEnsemble,
    datastore: CaseDatastore,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer({"steps": 1}, datastore)
    registry.store(*_of(registry, "v0001"), {})
    registry.serve("v0002")
    whole = registry.path("v0002").read_bytes()
    registry.path("v0002").write_bytes(whole[:200])
    assert infer({"image": "phantom_000"})[1]["model_version"] == "v0001"
    assert "v0002 cannot be served, the one before it is: " in caplog.text
    trainer({"steps": 1}, datastore)
    assert "training goes on from v0001" in capsys.readouterr().out
    # what is loaded goes on answering; a server that starts now has nothing that it could load
    registry.path("v0001").write_bytes(b"")
    registry.path("v0003").unlink()
    with pytest.raises(HTTPException, match="expected a model file, got a damaged or different file") as error:
        SegmentCase(infer.source, infer.spec, registry)({"image": "phantom_000"})
    assert error.value.status_code == 409


def _of(registry: ModelRegistry, version: str) -> tuple[Any, Any]:
    return open_checkpoint(registry.path(version), torch.device("cpu"))
