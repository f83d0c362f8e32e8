"""What MONAI Label calls, called directly on real studies at toy size."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
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
from maml_app.errors import TrainingError
from maml_app.imaging.files import read_image, read_label, write_label
from maml_app.learning import retrain
from maml_app.learning.registry import ModelRegistry
from maml_app.learning.scoring import ScoreStore
from maml_app.learning.selection import STRATEGIES
from maml_app.learning.train import train
from maml_app.network.checkpoint import open_checkpoint
from maml_app.stores.folder import FolderStore
from maml_app.tasks.datastore import CaseDatastore
from maml_app.tasks.infer import SegmentCase
from maml_app.tasks.scoring import ScoreCases
from maml_app.tasks.strategy import RankedCase
from maml_app.tasks.train import TrainEnsemble, _devices
from scripts.server import ROOT
from tests.conftest import TOY


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
    assert trainer.stats() == {}  # nothing was trained yet
    result = trainer({"steps": 2, "seed": 3}, datastore)
    printed = capsys.readouterr().out
    assert "4 of 5 cases have a final label" in printed
    assert "no model yet: there is nothing to compare with" in printed
    assert re.search(r"train 2/2, epoch \d: loss", printed)
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

    monkeypatch.setattr("maml_app.learning.retrain.train", full)
    with pytest.raises(SystemExit):
        trainer({}, datastore)
    assert "Training failed: out of memory; lower training.batch or training.patch" in capsys.readouterr().out
    assert registry.versions() == []
    assert trainer.stats()["last_run"]["state"] == "failed"
    assert "lower training.batch" in trainer.stats()["last_run"]["reason"]


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


def asked(trainer: TrainEnsemble, datastore: CaseDatastore, name: str, **request: Any) -> dict[str, Any]:
    """`next` as MONAI Label's endpoint does it, which notes what was given to whom."""
    strategy = RankedCase(name, trainer.source, trainer.spec, trainer.registry)
    answer = strategy(request, datastore) or {}
    if answer:
        info = datastore.get_image_info(answer["id"])
        given = {**info.get("strategy", {}), name: {"ts": int(time.time()), "client_id": request.get("client_id")}}
        datastore.update_image_info(answer["id"], {"strategy": given})
    return answer


def unlabel(studies: Path, *cases: str) -> None:
    for case in cases:
        (studies / case / "label.nii.gz").unlink()


def test_strategies_offer_unlabelled_cases_only(
    trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path
) -> None:
    unlabel(studies, "phantom_001")
    for name in STRATEGIES:
        ranked = RankedCase(name, trainer.source, trainer.spec, trainer.registry)({"count": 9}, datastore)
        assert ranked is not None
        assert sorted(ranked["batch"]) == ["phantom_001", "phantom_004"]
        assert ranked["id"] == ranked["batch"][0]
        assert (ranked["waiting"], ranked["choice"]["of"]) == (2, 2)
    assert asked(trainer, datastore, "first")["id"] == "phantom_001"
    for case in ("phantom_001", "phantom_004"):
        label = studies / "phantom_000" / "label.nii.gz"
        shutil.copy(label, studies / case / "label.nii.gz")
    assert RankedCase("maml", trainer.source, trainer.spec, trainer.registry)({}, datastore) is None


def test_a_case_given_to_one_is_not_offered_to_another(
    trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabel(studies, "phantom_000", "phantom_001")
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_000"
    assert asked(trainer, datastore, "first", client_id="ben")["id"] == "phantom_001"
    # asking again without saving: another one, then the first again
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_004"
    assert asked(trainer, datastore, "first", client_id="anna")["id"] == "phantom_000"
    monkeypatch.setattr("maml_app.tasks.strategy.RESERVED_S", -1)
    assert asked(trainer, datastore, "first", client_id="carla")["id"] == "phantom_000"


def test_a_skipped_case_comes_after_all_others(trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path) -> None:
    unlabel(studies, "phantom_000", "phantom_001")
    strategy = RankedCase("first", trainer.source, trainer.spec, trainer.registry)
    assert (strategy({"skip": "phantom_000", "count": 3}, datastore) or {})["batch"] == [
        "phantom_001",
        "phantom_004",
        "phantom_000",
    ]
    with pytest.raises(HTTPException, match="unknown id"):
        strategy({"skip": "nobody"}, datastore)
    with pytest.raises(HTTPException, match="whole number of cases, got 'many'"):
        strategy({"count": "many"}, datastore)


def test_cases_are_scored_once_a_version_and_next_says_why(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, studies: Path
) -> None:
    unlabel(studies, "phantom_000", "phantom_003")
    scoring = ScoreCases(trainer.source, trainer.spec, registry)
    assert scoring.is_due()
    assert scoring({}, datastore) == {"version": "none", "scored": 5, "cases": 5}  # no model: by their looks
    assert not scoring.is_due()
    cold = asked(trainer, datastore, "maml")
    assert (cold["choice"]["model_version"], "picture" in cold) == ("none", False)
    trainer({"steps": 2}, datastore)
    assert scoring.is_due()
    assert scoring({}, datastore) == {"version": "v0001", "scored": 5, "cases": 5}
    assert scoring({}, datastore)["scored"] == 0
    answer = asked(trainer, datastore, "disagreement", client_id="x")
    assert answer["choice"]["strategy"] == "disagreement"
    assert answer["choice"]["model_version"] == "v0001"
    assert isinstance(answer["choice"]["score"], float)
    assert re.match(r"\d of 3: ", answer["reason"])
    assert answer["picture"] == f"/maml/picture/{answer['id']}"
    picture = ScoreStore(registry.scores).picture("v0001", answer["id"])
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")
    # a modality arrives: the score of that case is computed again, and only that
    shutil.copy(studies / "phantom_002" / "ct.nii.gz", studies / "phantom_003" / "ct.nii.gz")
    assert scoring({}, datastore)["scored"] == 1
    # a damaged case is told and does not stop the others; a damaged score is computed again
    (registry.scores / "v0001" / "phantom_002.json").write_text("{")
    (studies / "phantom_004" / "pet.nii.gz").write_bytes(b"")
    (registry.scores / "v0001" / "phantom_004.json").unlink()
    assert scoring({}, datastore)["scored"] == 1


def test_a_new_version_chooses_by_the_old_scores_until_half_are_there(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, studies: Path
) -> None:
    unlabel(studies, "phantom_000", "phantom_001", "phantom_002")
    scoring = ScoreCases(trainer.source, trainer.spec, registry)
    trainer({"steps": 1}, datastore)
    scoring({}, datastore)
    trainer({"steps": 1}, datastore)
    assert asked(trainer, datastore, "entropy")["choice"]["model_version"] == "v0001"
    scoring({}, datastore)
    assert asked(trainer, datastore, "entropy")["choice"]["model_version"] == "v0002"


def nobody_aside(trainer: TrainEnsemble) -> None:
    """As while none of the labelled patients is on the validation side of the split."""
    training = trainer.spec.training.model_copy(update={"validation": 0.001})
    trainer.spec = trainer.spec.model_copy(update={"training": training})


def test_few_labels_are_cross_validated_after_the_model_is_served(
    trainer: TrainEnsemble,
    datastore: CaseDatastore,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nobody_aside(trainer)
    result = trainer({"steps": 1}, datastore)
    lines = capsys.readouterr().out.splitlines()
    published = lines.index("published v0001")
    said = next(n for n, line in enumerate(lines) if "estimating by 3-fold cross-validation over 4 patients" in line)
    assert published < said
    assert any(line.startswith("3-fold cross-validation Dice: mean over subsets 0.") for line in lines)
    assert len(lines) < 20  # what MONAI Label keeps
    assert any("fold 3 of 3: train 1/1" in line for line in lines)
    summary = registry.report("v0001")["cross_validation"]
    assert (summary["kind"], summary["patients"]) == ("3-fold cross-validation", 4)
    assert (summary["mean"], summary["full"]) == (result["validation"]["mean"], result["validation"]["full"])
    assert trainer.stats()["best_metric"] == summary["full"]
    # what goes on from it is not compared by these estimates: they are of other networks
    trainer({"steps": 1}, datastore)
    assert registry.report("v0002")["gate"] is None


def test_leave_one_out_with_as_few_patients_as_folds(
    trainer: TrainEnsemble, datastore: CaseDatastore, capsys: pytest.CaptureFixture[str], studies: Path
) -> None:
    nobody_aside(trainer)
    (studies / "phantom_001" / "label.nii.gz").unlink()
    trainer({"steps": 1}, datastore)
    assert "estimating by leave-one-out over 3 patients" in capsys.readouterr().out


def test_cases_with_new_labels_are_drawn_more_often(
    trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = trainer.spec.training.model_copy(update={"new_labels": 3, "folds": 0})
    trainer.spec = trainer.spec.model_copy(update={"training": training})
    given: list[dict[str, int] | None] = []
    whole = train

    def spied(*arguments: Any, **options: Any) -> Any:
        given.append(options["weights"])
        return whole(*arguments, **options)

    monkeypatch.setattr(retrain, "train", spied)
    hidden = studies / "hidden.nii.gz"
    (studies / "phantom_002" / "label.nii.gz").rename(hidden)
    trainer({"steps": 1}, datastore)
    hidden.rename(studies / "phantom_002" / "label.nii.gz")
    trainer({"steps": 1}, datastore)
    trainer({"steps": 1}, datastore)
    assert given == [{}, {"phantom_002": 3}, {}]


def test_a_run_is_kept_and_the_version_names_it(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry
) -> None:
    nobody_aside(trainer)
    trainer({"steps": 2}, datastore)
    report = registry.report("v0001")
    folder = registry.runs / report["run"]
    log = (folder / "train.log").read_text()
    assert "published v0001" in log
    assert "train 2/2" in log
    assert (folder / "curves.png").is_file()
    assert trainer.stats()["last_run"]["state"] == "done"
    assert report["task"]["name"] == "toy"
    assert report["program"].startswith("maml_app ")
    assert len(list(registry.prepared.iterdir())) == 4


def test_training_in_two_processes_as_a_client_asks_for_it(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    training = trainer.spec.training.model_copy(update={"folds": 0})
    trainer.spec = trainer.spec.model_copy(update={"training": training})
    trainer({"steps": 2, "processes": 2, "device": "cpu"}, datastore)
    assert "4 of 5 cases have a final label; 2 x cpu" in capsys.readouterr().out
    assert registry.report("v0001")["processes"] == 2


def test_gpus_are_chosen_as_monai_label_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    cuda = torch.device("cuda")

    def chosen(**request: Any) -> list[str]:
        return [str(one) for one in _devices(request, cuda)]

    assert chosen(gpus="all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert chosen(gpus="0,2", multi_gpu=True) == ["cuda:0", "cuda:2"]
    assert chosen(gpus="all", multi_gpu=False) == chosen(gpus="1") == []
    assert _devices({"multi_gpu": True}, torch.device("cpu")) == []
    for wrong, message in (("a,b", "'all' or numbers"), ("0,7", r"some of \[0, 1, 2\], got '0,7'")):
        with pytest.raises(TrainingError, match=message):
            chosen(gpus=wrong)


def test_a_full_disk_is_told_and_the_served_model_stays(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, studies: Path
) -> None:
    """A real limit on file sizes, in a process of its own, stands for a disk that fills up while a model is written."""
    trainer({"steps": 1}, datastore)
    before = registry.history()
    (studies / "task.yaml").write_text(TOY)
    program = f"""
import resource
from pathlib import Path
from maml_app.learning.registry import ModelRegistry
from maml_app.network.checkpoint import open_checkpoint
from maml_app.stores.folder import FolderStore
from maml_app.cases.spec import load_task
from maml_app.tasks.train import TrainEnsemble, _devices
from scripts.server import ROOT
from tests.conftest import TOY
spec = load_task(Path({str(studies)!r}))
trainer = TrainEnsemble(FolderStore(Path({str(studies)!r}), spec), spec, ModelRegistry(Path({str(registry.root)!r})))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
trainer({{"steps": 1}}, None)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert "Training failed: " in found.stdout
    assert "File too large" in found.stdout
    assert "v0001 stays served" in found.stdout
    assert registry.history() == before
    assert not list(registry.root.glob(".work-*"))
    assert trainer.stats()["last_run"]["state"] == "failed"


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
