"""The command line as a user calls it, in a process of its own."""

from __future__ import annotations

import csv
import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maml_app.cases.spec import TaskSpec, load_task
from maml_app.imaging.files import read_label, write_label
from maml_app.network.checkpoint import Checkpoint
from maml_app.network.ensemble import build_network
from maml_app.network.settings import Network
from maml_app.versions.registry import ModelRegistry, store_model
from tests.builders import stored_model, touch
from tests.conftest import TOY
from tests.harness.command import called

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def call(*arguments: object, expect: int = 0) -> str:
    """What a command prints, which ends with this exit code."""
    code, printed = called(*arguments)
    assert code == expect, printed
    return printed


def test_it_is_a_program_of_its_own() -> None:
    command = [sys.executable, "-m", "maml_app"]
    done = subprocess.run(
        [*command, "models", "list", "--models", "/nowhere"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "error: /nowhere: expected --task to be one of []" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "task.yaml").write_text(TOY)
    return tmp_path / "task.yaml"


def test_the_loop_without_a_server(toy: Path, tmp_path: Path) -> None:
    studies, model = tmp_path / "studies", tmp_path / "m.safetensors"
    call("phantom", "--out", studies, "--task", toy, "--count", 4, "--size", 20, "--labelled", 3)
    printed = call("check", "--studies", studies, "--task", toy)
    assert "4 cases, 3 labelled, 0 with problems" in printed
    for network in ("maml", "early-fusion"):
        printed = call("train", "--studies", studies, "--task", toy, "--out", model, "--steps", 2, "--network", network)
        assert f"model written to {model}" in printed
        described = load_task(model.with_suffix(".yaml"))
        assert (described.network.kind, described.training.steps) == (network, 2)
        assert "loss" in printed
        call("evaluate", "--studies", studies, "--task", toy, "--model", model, "--out", tmp_path / network)
        report = json.loads((tmp_path / network / "report.json").read_text())
        assert len(report["subsets"]) == 7
        assert report["model"]["network"] == network
        assert len(report["cases"]) == 3
        assert "mean over subsets" in (tmp_path / network / "report.md").read_text()
    call(
        "evaluate", "--studies", studies, "--task", toy, "--model", model, "--out", tmp_path / "both",
        "--against", tmp_path / "maml" / "report.json",
    )  # fmt: skip
    report = json.loads((tmp_path / "both" / "report.json").read_text())
    assert len(report["against"]["subsets"]) == 8
    rows = list(csv.DictReader((tmp_path / "both" / "cases.csv").read_text().splitlines()))
    assert len(rows) == 3 * 7 * 2  # cases, subsets, structures
    first = rows[0]
    stored = report["details"][first["case"]][first["modalities"]][first["structure"]]
    assert {key: first[key] for key in stored} == {
        key: "" if value is None else str(value) for key, value in stored.items()
    }
    measures = report["measures"]["ct+pet+mr_t1"]["organ"]
    assert measures["dice"] == pytest.approx(report["subsets"]["ct+pet+mr_t1"]["organ"])
    page = (tmp_path / "both" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5  # bars, boxes, three cases
    assert "<table>" in page
    assert "http" not in page.replace("http-equiv", "")  # needs nothing from elsewhere
    assert "| modalities | structure | Dice | NSD | HD95, mm |" in (tmp_path / "both" / "report.md").read_text()
    assert "Difference to `m.safetensors`, paired by case" in (tmp_path / "both" / "report.md").read_text()
    printed = call(
        "infer", "--studies", studies, "--task", toy, "--model", model, "--out", tmp_path / "masks",
        "--cases", "phantom_000,phantom_001", "--grid", "pet", "--convention", "theirs",
    )  # fmt: skip
    assert "phantom_000 on pet: organ " in printed
    masks = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert masks == ["phantom_000.nii.gz", "phantom_001.nii.gz"]
    assert set(np.unique(read_label(tmp_path / "masks" / masks[0]).voxels)) <= {0, 1, 4}


def test_only_a_report_of_the_same_task_and_structures_is_compared_with(
    toy: Path, spec: TaskSpec, tmp_path: Path
) -> None:
    call("phantom", "--out", tmp_path / "studies", "--task", toy, "--count", 1, "--size", 20)
    model, against = stored_model(tmp_path / "m.safetensors", spec), tmp_path / "against.json"
    asked = ("evaluate", "--studies", tmp_path / "studies", "--task", toy, "--model", model, "--out", tmp_path / "out")
    dice = {"phantom_000": {"ct": {"organ": 0.5, "lesion": None}}}
    good = {"task": "toy", "model": {"file": "old.safetensors"}, "cases": dice, "subsets": {}}
    wrong: list[tuple[dict[str, object], str]] = [
        ({"task": "another"}, "got one of task 'another' with scores of lesion, organ"),
        (
            {"cases": {"a": {"ct": {"organ": 0.5}}}},
            "with scores of lesion, organ, got one of task 'toy' with scores of organ",
        ),
        ({"model": {}}, "got other JSON"),
        ({"model": None}, "got other JSON"),
        ({"cases": {"a": {"ct": {"organ": "0.5", "lesion": 1}}}}, "got other JSON"),
        ({"cases": [1]}, "got other JSON"),
    ]
    for change, message in wrong:
        against.write_text(json.dumps({**good, **change}))
        assert message in call(*asked, "--against", against, expect=2)
    against.write_text(json.dumps(good))
    assert "Difference to `old.safetensors`" in call(*asked, "--against", against)


def test_patients_that_were_trained_on_are_no_test(toy: Path, spec: TaskSpec, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    call("phantom", "--out", studies, "--task", toy, "--count", 3, "--size", 20)
    model = stored_model(
        tmp_path / "m.safetensors",
        spec,
        taught_without_label=["phantom_000"],
        inherited={"earlier": "phantom_001"},
    )
    printed = call("evaluate", "--studies", studies, "--task", toy, "--model", model, "--out", tmp_path / "out")
    told = (
        "2 of these cases are of patients that were trained on, their scores are not a test: phantom_000, phantom_001"
    )
    assert told in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model"]["trained_on_scored_cases"] == ["phantom_000", "phantom_001"]


def test_each_stage_of_a_training_has_a_bar_and_what_is_told_between_has_none(toy: Path, tmp_path: Path) -> None:
    call("phantom", "--out", tmp_path / "studies", "--task", toy, "--count", 6, "--size", 20, "--labelled", 6)
    printed = call("train", "--studies", tmp_path / "studies", "--task", toy, "--out", tmp_path / "m.safetensors")
    assert "validation Dice after 2 steps (organ, lesion): ct " in printed
    bars = {line.split()[0]: line.split()[-2] for line in printed.splitlines() if "━" in line}
    assert bars == {"prepare": "4/4", "train": "3/3", "validate": "2/2"}


def test_mistakes_are_one_message_and_write_nothing(toy: Path, tmp_path: Path) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out"
    call("phantom", "--out", studies, "--task", toy, "--count", 1, "--size", 20, "--labelled", 0)
    printed = call("train", "--studies", studies, "--task", toy, "--out", out, expect=2)
    assert "expected at least one case with a final label, got none among 1 cases" in printed
    assert "got nothing there" in call("check", "--studies", tmp_path / "none", "--task", toy, expect=2)
    assert "got 'nosuch'" in call("check", "--studies", studies, "--task", "nosuch", expect=2)
    assert "unknown nobody" in call(
        "train", "--studies", studies, "--task", toy, "--out", out, "--cases", "nobody", expect=2
    )
    assert "expected a text file with one id a line" in call(
        "train", "--studies", studies, "--task", toy, "--out", out, "--cases", "@nothing", expect=2
    )
    printed = call("infer", "--studies", studies, "--task", toy, "--model", toy, "--out", out, expect=2)
    assert "expected a model file, got a damaged or different file" in printed
    printed = call("evaluate", "--studies", studies, "--task", toy, "--model", toy, "--out", out, expect=2)
    assert "expected cases with a label to score against" in printed
    assert "expected an empty or new folder" in call("phantom", "--out", studies, "--task", toy, expect=2)
    assert not out.exists()


def test_check_fails_on_a_broken_case(toy: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    call("phantom", "--out", studies, "--task", toy, "--count", 2, "--size", 20)
    (studies / "phantom_001" / "pet.nii.gz").write_bytes(b"")
    printed = call("check", "--studies", studies, "--task", toy, expect=1)
    assert "2 cases, 2 labelled, 1 with problems" in printed
    assert "got an empty file" in printed


def test_wrong_choices_are_refused_before_the_work(toy: Path, tmp_path: Path) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out"
    call("phantom", "--out", studies, "--task", toy, "--count", 1, "--size", 20)
    asked = ("infer", "--studies", studies, "--task", toy, "--model", tmp_path / "none", "--out", out)
    printed = call(*asked, "--convention", "nope", expect=2)
    assert "expected a label convention of ['task', 'theirs'], got 'nope'" in printed
    assert "--grid: expected one of ['ct', 'pet', 'mr_t1'], got 'nope'" in call(*asked, "--grid", "nope", expect=2)
    for command in (asked, ("train", "--studies", studies, "--task", toy, "--out", out)):
        printed = call(*command, "--device", "cuda:7", expect=2)
        assert "device: expected one of this machine's, cpu" in printed
        assert "got 'cuda:7'" in printed
    assert not out.exists()


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    toy: Path, spec: TaskSpec, tmp_path: Path
) -> None:
    studies, model, file = tmp_path / "studies", tmp_path / "m.safetensors", tmp_path / "file"
    call("phantom", "--out", studies, "--task", toy, "--count", 2, "--size", 20)
    checkpoint = Checkpoint("toy", spec.signature(), 3, spec.classes, spec.network, spec.training.patch)
    store_model(model, build_network(3, spec.classes, spec.network), checkpoint)
    file.touch()
    used = ("--studies", studies, "--task", toy)
    commands = [
        (("infer", *used, "--model", model), file),
        (("evaluate", *used, "--model", model), file),
        (("plan", *used), file / "x.yaml"),
        (("train", *used), file / "x.safetensors"),
        (("simulate", *used, "--start", 1, "--test", "phantom_000"), file),
        (("phantom", "--task", toy), file),
        (("phantom", "--task", toy), file / "x"),
    ]
    for command, place in commands:
        printed = call(*command, "--out", place, expect=2)
        assert f"error: --out: expected a folder that can be written to, got {file}" in printed, command
    assert "expected a model file such as x.safetensors" in call("train", *used, "--out", tmp_path / "x.yaml", expect=2)
    printed = call("train", *used, "--out", studies, expect=2)
    assert f"error: --out: expected a file, got the folder {studies}" in printed


def test_a_training_replaces_no_task_file_of_somebodys(toy: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    call("phantom", "--out", studies, "--task", toy, "--count", 2, "--size", 20)
    (studies / "task.yaml").write_text(TOY)
    (tmp_path / "mine.yaml").write_text("mine: true")
    train = ("train", "--studies", studies, "--steps", 1, "--no-validate")
    in_use, somebodys = "is the task in use", "is there, and no training of this model wrote it"
    for place, used, why in (
        (toy, ("--task", toy), in_use),
        (toy, ("--task", tmp_path), in_use),
        (studies / "task.yaml", (), in_use),
        (tmp_path / "mine.yaml", (), somebodys),
    ):
        before = place.read_text()
        printed = call(*train, *used, "--out", place.with_suffix(".safetensors"), expect=2)
        assert f"{place} {why}" in printed
        assert place.read_text() == before
        assert not place.with_suffix(".safetensors").exists()
    for _ in range(2):  # what a training wrote, the next one replaces
        call(*train, "--out", tmp_path / "m.safetensors")


@pytest.mark.parametrize(("command", "option", "seed"), [("train", "--seed", 2**32), ("simulate", "--first-seed", -1)])
def test_a_seed_that_is_none_is_refused(command: str, option: str, seed: int) -> None:
    printed = call(command, "--studies", "studies", "--out", "out", option, seed, expect=2)
    assert f"Invalid value for '{option}'" in printed


def test_too_little_memory_or_disk_is_a_sentence(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = tmp_path / "studies"
    call("phantom", "--out", studies, "--task", toy, "--count", 1, "--size", 20)
    toy.write_text(TOY.replace("spacing_mm: [8.0, 8.0, 8.0]", "spacing_mm: [0.0001, 0.1, 0.1]"))
    asked = ("train", "--studies", studies, "--task", toy, "--out", tmp_path / "m.safetensors", "--no-validate")
    assert "error: out of memory; lower training.batch" in call(*asked, expect=2)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "case")

    monkeypatch.setattr("maml_app.phantom.scene.write_cases", full)
    printed = call("phantom", "--out", tmp_path / "more", "--task", toy, expect=2)
    assert "error: a file or a connection could not be used: [Errno 28] No space left on device: 'case'" in printed


def test_studies_without_a_case_or_with_empty_labels_are_told(toy: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    touch(studies, "A/dwi.nii.gz")
    asked = ("--studies", studies, "--task", toy, "--out", tmp_path / "out")
    for command in (("train", *asked), ("infer", *asked, "--model", tmp_path / "none")):
        assert "expected cases among the studies, got none" in call(*command, expect=2)
    call("phantom", "--out", tmp_path / "all", "--task", toy, "--count", 2, "--size", 20)
    for path in (tmp_path / "all").rglob("label.nii.gz"):
        label = read_label(path)
        write_label(path, label.voxels * 0, label.affine)
    assert "Every label is empty: there is nothing to learn from" in call(
        "check", "--studies", tmp_path / "all", "--task", toy
    )
    asked = ("train", "--studies", tmp_path / "all", "--task", toy, "--out", tmp_path / "out", "--no-validate")
    assert "expected something labelled in at least one case" in call(*asked, expect=2)


def test_one_bad_part_costs_only_itself_and_the_exit_code_tells(toy: Path, tmp_path: Path) -> None:
    studies, model, out = tmp_path / "studies", tmp_path / "m.safetensors", tmp_path / "out"
    call("phantom", "--out", studies, "--task", toy, "--count", 4, "--size", 20)
    call("train", "--studies", studies, "--task", toy, "--out", model, "--steps", 1)
    asked = ("infer", "--studies", studies, "--task", toy, "--model", model, "--out", out)
    call(*asked)
    (studies / "phantom_000").rename(studies / "Patient 0 (copy)")
    (studies / "phantom_001" / "pet.nii.gz").write_bytes(b"")
    (studies / "phantom_002" / "label.nii.gz").write_bytes(b"")
    whole = [path.name for path in (studies / "Patient 0 (copy)").iterdir()]
    assert len(whole) >= 3
    printed = call(*asked, expect=1)
    assert "Patient 0 (copy)/" in printed
    assert "not used: case id 'Patient 0 (copy)': expected letters" in printed
    assert "without pet: " in printed
    assert "1 segmented without an image that cannot be used: phantom_001" in printed
    call(*asked, "--cases", "phantom_002")  # nothing is wrong with what was asked for
    printed = call("train", "--studies", studies, "--task", toy, "--out", model, "--no-validate", expect=1)
    assert "phantom_002 is not used: " in printed
    assert "phantom_001 is used without pet: " in printed
    assert "trained on 2 cases" in printed
    printed = call("evaluate", "--studies", studies, "--task", toy, "--model", model, "--out", out, expect=1)
    assert "1 of 3 labelled cases are not scored: phantom_002" in printed


def test_models_are_listed_promoted_and_rolled_back(tmp_path: Path) -> None:
    plan = Network(head="light", shared_decoder=False, channels=(2, 3), strides=((1, 1, 1), (2, 2, 2)))
    registry = ModelRegistry(tmp_path / "toy")
    checkpoint = Checkpoint("toy", "x", 2, 2, plan, (8, 8, 8))
    registry.publish(build_network(2, 2, plan), checkpoint, {"trained_on": {"a": "final-0001"}})
    registry.store(build_network(2, 2, plan), checkpoint, {"parent": "v0001", "gate": {"publish": False}})
    printed = call("models", "list", "--models", tmp_path)
    assert "served" in printed
    assert "candidate" in printed
    assert "final-0001" in call("models", "show", "v0001", "--models", tmp_path)
    assert "v0002 is served" in call("models", "promote", "v0002", "--models", tmp_path, "--task", "toy")
    assert registry.served() == "v0002"
    assert "v0001 is served again" in call("models", "rollback", "--models", tmp_path)
    assert registry.served() == "v0001"
    assert "got 'v0009'" in call("models", "promote", "v0009", "--models", tmp_path, expect=2)
    assert "expected --task to be one of ['toy'], got 'other'" in call(
        "models", "list", "--models", tmp_path, "--task", "other", expect=2
    )


def test_models_are_exported_and_pruned(tmp_path: Path) -> None:
    plan = Network(head="light", shared_decoder=False, channels=(2, 3), strides=((1, 1, 1), (2, 2, 2)))
    registry = ModelRegistry(tmp_path / "models" / "toy")
    for _ in range(4):
        registry.publish(build_network(2, 2, plan), Checkpoint("toy", "x", 2, 2, plan, (8, 8, 8)), {})
    models = ("--models", tmp_path / "models")
    assert "v0004 written to" in call("models", "export", "v0004", "--out", tmp_path / "m.ts", *models)
    described = json.loads((tmp_path / "m.json").read_text())
    assert (described["version"], described["patch"]) == ("v0004", [8, 8, 8])
    exported = torch.jit.load(str(tmp_path / "m.ts"))  # type: ignore[no-untyped-call]
    answer = exported(torch.zeros(1, 2, 8, 8, 8), torch.tensor([[True, False]]))
    assert answer.shape == (1, 2, 8, 8, 8)
    assert "got 'v0009'" in call("models", "export", "v0009", "--out", tmp_path / "m.ts", *models, expect=2)
    assert "could not be written" in call(
        "models", "export", "v0004", "--out", tmp_path / "m.ts" / "x.ts", *models, expect=2
    )
    assert "deleted: v0001, v0002; kept: v0003, v0004" in call("models", "prune", "--keep", 1, *models)


def test_the_queue_is_printed_with_reasons(toy: Path, tmp_path: Path) -> None:
    studies, models = tmp_path / "studies", ("--models", tmp_path / "models")
    call("phantom", "--out", studies, "--task", toy, "--count", 4, "--size", 20, "--labelled", 1)
    arguments = ("queue", "--studies", studies, "--task", toy, *models)
    printed = call(*arguments)
    assert "3 waiting, 1 labelled" in printed
    assert "not looked at by a model yet; no ct" in printed
    printed = call(*arguments, "--score")
    assert "there is no model for Toy task yet" in printed
    assert "4/4" in printed
    assert "unlike the labelled cases" in printed
    assert "0/0" in call(*arguments, "--score")  # nothing is left to do
    assert "expected one of ['maml'," in call(*arguments, "--strategy", "luck", expect=2)


def test_help_explains_itself() -> None:
    printed = call("--help")
    for command in ("check", "train", "evaluate", "infer", "queue", "simulate", "import-labels", "phantom", "models"):
        assert command in printed
    assert "every subset of modalities" in call("evaluate", "--help")


def test_help_and_version_import_nothing_large() -> None:
    program = (
        "import sys; from maml_app.__main__ import main; sys.argv[1:] = ['{}']\ntry: main()\nexcept SystemExit: pass\n"
    )
    for asked in ("--help", "--version"):
        told = "assert not {'torch', 'monai', 'numpy', 'nibabel', 'pydicom'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", program.format(asked) + told], check=True, capture_output=True)
