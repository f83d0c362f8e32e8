"""The train task and the retraining behind it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.imaging.files import read_label, write_label
from maml_app.stores.folder import FolderStore
from maml_app.tasks.datastore import CaseDatastore
from maml_app.tasks.infer import SegmentCase
from maml_app.tasks.train import TrainEnsemble, _devices
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions import retrain
from maml_app.versions.registry import ModelRegistry
from tests.builders import keep
from tests.conftest import TOY
from tests.harness.server import ROOT


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
    assert re.search(r"validation Dice after 1 steps \(organ, lesion\): pet \d\.\d{3} \d\.\d{3}; mr_t1 ", printed)
    assert "published v0001" in printed
    assert sorted(result["validation"]["subsets"]) == ["mr_t1", "pet", "pet+mr_t1"]  # phantom_003 lacks ct
    stats = trainer.stats()
    assert (stats["version"], stats["epoch"]) == ("v0001", 2)
    assert isinstance(stats["best_metric"], float)
    trainer({"steps": 1}, datastore)
    assert "training goes on from v0001" in capsys.readouterr().out


def test_a_refinement_of_clicks_is_trained_and_judged_on_the_validation_cases(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    with_clicks = {"validation": 0.55, "checks": 0, "refine_steps": 1}
    trainer.spec = trainer.spec.model_copy(update={"training": trainer.spec.training.model_copy(update=with_clicks)})
    trainer({"steps": 1}, datastore)
    printed = capsys.readouterr().out
    assert "refine 1/1, epoch 1: loss" in printed
    told = registry.report("v0001")["refinement"]
    assert told["cases"] == 1
    assert all(list(curve) == ["0", "1", "3", "5", "10"] for curve in told["dice_after_clicks"].values())
    answers = "refinement" if told["kept"] else "classifier"
    assert f"clicks are answered by the {answers}; validation Dice after 0, 1, 3, 5, 10 clicks" in printed
    with safe_open(registry.path("v0001"), framework="pt") as file:
        assert any(name.startswith("refine.") for name in file.keys()) == told["kept"]  # noqa: SIM118 - not a mapping


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
    told = "v0001 was trained on validation cases (phantom_003), or on others of their patients: not compared"
    assert told in capsys.readouterr().out
    report = registry.report("v0002")
    assert (report["warm_start"], report["gate"], report["parent"]) == (False, None, None)
    assert registry.served() == "v0002"


def test_what_a_model_learned_before_a_warm_start_is_not_forgotten(
    trainer: TrainEnsemble, datastore: CaseDatastore, studies: Path, registry: ModelRegistry
) -> None:
    """A validation case whose label was withdrawn meanwhile: the model that goes on from its model knows it too."""
    longer = trainer.spec.training.model_copy(update={"validation": 0.55, "steps": 1})  # the side of phantom_003
    trainer.spec = trainer.spec.model_copy(update={"training": longer})
    labels = {number: studies / f"phantom_{number:03d}" / "label.nii.gz" for number in range(4)}

    def only(*numbers: int) -> dict[str, Any]:
        for number, label in labels.items():
            kept = studies / f"kept-{number}"
            if number in numbers and kept.exists():
                kept.rename(label)
            elif number not in numbers and label.exists():
                label.rename(kept)
        return registry.report(trainer({}, datastore)["version"])

    only(3)
    second = only(0)
    assert (second["warm_start"], second["inherited"]) == (True, {"phantom_003": "phantom_003"})
    third = only(0, 1, 3)
    assert list(third["validated_on"]) == ["phantom_003"]
    assert (third["warm_start"], third["gate"], third["inherited"]) == (False, None, {})


def test_a_rule_for_patients_that_moves_validated_cases_is_refused(
    trainer: TrainEnsemble, datastore: CaseDatastore, registry: ModelRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = trainer.spec.training.model_copy(update={"validation": 0.55})  # the side of phantom_003
    trainer.spec = trainer.spec.model_copy(update={"training": aside})
    trainer({"steps": 1}, datastore)
    assert set(registry.report("v0001")["validated_on"]) == {"phantom_003"}
    # phantom_003 now is a case of a patient who is trained on
    by_rule = trainer.spec.model_copy(update={"patient": "^(phantom)_00"})
    source = FolderStore(datastore.source.studies, by_rule)  # type: ignore[attr-defined]
    assert {case.patient_id for case in source.cases()} == {"phantom"}
    again = TrainEnsemble(source, by_rule, registry)
    with pytest.raises(SystemExit):
        again({"steps": 1}, CaseDatastore(source, by_rule, "studies"))
    printed = "".join(capsys.readouterr())
    assert "1 cases that models were validated on would be trained on now: phantom_003 (patient phantom)" in printed
    assert registry.versions() == ["v0001"]


def test_a_model_of_poisoned_labels_is_not_served(
    trainer: TrainEnsemble,
    infer: SegmentCase,
    datastore: CaseDatastore,
    store: FolderStore,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faster = {"validation": 0.55, "learning_rate": 0.03, "each_alone": False, "checks": 0}  # keeps phantom_003 aside
    trainer.spec = trainer.spec.model_copy(update={"training": trainer.spec.training.model_copy(update=faster)})
    trainer({"steps": 50}, datastore)
    good = trainer.stats()["best_metric"]
    assert good > 0.2
    for case in store.cases():
        if case.label and case.id != "phantom_003":
            label = read_label(case.label.path)
            flipped = store.studies.parent / "flipped.nii.gz"
            write_label(flipped, (label.voxels == 0).astype(np.uint8), label.affine)
            keep(store, case.id, flipped)
    result = trainer({"steps": 25}, datastore)
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


def test_a_case_that_was_forgotten_raises_an_alarm_even_if_the_gate_lets_it_pass(
    trainer: TrainEnsemble,
    datastore: CaseDatastore,
    store: FolderStore,
    registry: ModelRegistry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A gate that tolerates anything stands for a mean that stays while one case falls."""
    careless = {
        "validation": 0.55,
        "learning_rate": 0.03,
        "tolerance": 0.99,
        "each_alone": False,
        "checks": 0,
    }  # keeps phantom_003 aside
    trainer.spec = trainer.spec.model_copy(update={"training": trainer.spec.training.model_copy(update=careless)})
    trainer({"steps": 50}, datastore)
    assert registry.report("v0001")["forgotten"] == []
    for case in store.cases():
        if case.label and case.id != "phantom_003":
            label = read_label(case.label.path)
            empty = store.studies.parent / "empty.nii.gz"
            voxels = np.zeros_like(label.voxels)
            voxels[0, 0, 0] = 1  # labels that are all empty are refused
            write_label(empty, voxels, label.affine)
            keep(store, case.id, empty)
    capsys.readouterr()
    result = trainer({"steps": 30}, datastore)
    printed = capsys.readouterr().out
    assert (result["version"], result["served"]) == ("v0002", "v0002")
    assert "ALARM, forgotten since v0001: phantom_003: Dice 0." in printed
    assert registry.report("v0002")["forgotten"][0].startswith("phantom_003: Dice 0.")


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

    monkeypatch.setattr("maml_app.versions.retrain.train", full)
    with pytest.raises(SystemExit):
        trainer({}, datastore)
    assert "Training failed: out of memory; lower training.batch or training.patch" in capsys.readouterr().out
    assert registry.versions() == []
    assert trainer.stats()["last_run"]["state"] == "failed"
    assert "lower training.batch" in trainer.stats()["last_run"]["reason"]


def nobody_aside(trainer: TrainEnsemble) -> None:
    """As while none of the labelled patients is on the validation side of the split."""
    training = trainer.spec.training.model_copy(update={"validation": 0.001, "folds": 3})
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
    training = trainer.spec.training.model_copy(update={"new_labels": 3})
    trainer.spec = trainer.spec.model_copy(update={"training": training})
    given: list[Mapping[str, int]] = []
    whole = train

    def spied(spec: TaskSpec, cases: Sequence[Case], recipe: Recipe) -> Any:
        given.append(recipe.weights)
        return whole(spec, cases, recipe)

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
from maml_app.versions.registry import ModelRegistry
from maml_app.network.checkpoint import open_checkpoint
from maml_app.stores.folder import FolderStore
from maml_app.cases.spec import load_task
from maml_app.tasks.train import TrainEnsemble, _devices
from tests.harness.server import ROOT
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
