"""A model from elsewhere passes the same gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ModelError
from maml_app.stores.folder import FolderStore
from maml_app.training.split import split
from maml_app.versions import bring as module
from maml_app.versions.bring import Brought, bring
from maml_app.versions.gate import Outcome
from maml_app.versions.registry import ModelRegistry
from tests.builders import as_datalist, stored_model

CPU = torch.device("cpu")


@pytest.fixture
def half(spec: TaskSpec) -> TaskSpec:
    """The task with so many validation cases that some of five are."""
    return spec.model_copy(update={"training": spec.training.model_copy(update={"validation": 0.5})})


def test_the_first_one_is_served_and_a_worse_one_is_kept(
    store: FolderStore, half: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, cases = ModelRegistry(tmp_path / "models"), store.cases()
    held_out = [case.id for case in split([case for case in cases if case.label], 0.5)[1]]
    assert held_out
    first = bring(stored_model(tmp_path / "a.safetensors", half, {}), registry, half, cases, CPU)
    assert (first.version, first.served, first.why) == ("v0001", True, "there was no model yet")
    report = registry.report("v0001")
    assert sorted(report["validated_on"]) == sorted(held_out)
    assert report["imported"]["file"] == "a.safetensors"
    same = bring(stored_model(tmp_path / "b.safetensors", half, {}), registry, half, cases, CPU)
    assert (same.served, registry.served()) == (True, "v0002")
    assert same.why == f"not worse than v0001 on {len(held_out)} cases"
    monkeypatch.setattr(
        module, "weigh", lambda *_: Outcome(False, "v0002", 2, 0.02, ("lesion from ct: Dice 0, was 1",))
    )
    worse = bring(stored_model(tmp_path / "c.safetensors", half, {}, seed=1), registry, half, cases, CPU)
    assert (worse.served, registry.served(), registry.versions()[-1]) == (False, "v0002", worse.version)
    assert "lesion from ct: Dice 0, was 1" in worse.why
    assert registry.report(worse.version)["gate"]["publish"] is False


def test_what_it_was_trained_on_is_no_test(store: FolderStore, half: TaskSpec, tmp_path: Path) -> None:
    registry, cases = ModelRegistry(tmp_path / "models"), store.cases()
    bring(stored_model(tmp_path / "a.safetensors", half, {}), registry, half, cases, CPU)
    knows = {case.id: "final-0000" for case in cases}
    brought = bring(stored_model(tmp_path / "b.safetensors", half, knows), registry, half, cases, CPU)
    assert (brought.served, registry.served()) == (False, "v0001")
    assert "no validation case to use that it has not seen" in brought.why


def test_another_examination_of_whom_it_was_trained_on_is_no_test(
    store: FolderStore, half: TaskSpec, tmp_path: Path
) -> None:
    registry, cases = ModelRegistry(tmp_path / "models"), store.cases()
    bring(stored_model(tmp_path / "a.safetensors", half, {}), registry, half, cases, CPU)
    earlier = {f"{case.id}_2021": case.patient_id for case in cases}
    file = stored_model(tmp_path / "b.safetensors", half, dict.fromkeys(earlier, "final-0000"), patients=earlier)
    assert "no validation case to use that it has not seen" in bring(file, registry, half, cases, CPU).why


def test_a_file_that_is_no_model_of_the_task_is_refused(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    other = stored_model(tmp_path / "other.safetensors", spec, {}, task="another")
    for file in (tmp_path / "junk.safetensors", other, tmp_path / "none.safetensors"):
        with pytest.raises(ModelError, match="expected"):
            bring(file, registry, spec, store.cases(), CPU)
    assert registry.versions() == []


def test_a_label_that_cannot_be_read_costs_only_its_case(store: FolderStore, half: TaskSpec, tmp_path: Path) -> None:
    cases = [case for case in store.cases() if case.label]
    aside = split(cases, 0.5)[1]
    broken, *_ = aside
    twin = replace(broken, id="twin", patient=broken.patient_id)  # the same images, and a label that can be read

    def brought(name: str, seed: int, cases: Sequence[Case]) -> Brought:
        file = stored_model(tmp_path / f"{name}.safetensors", half, {}, seed=seed)
        return bring(file, registry, half, cases, CPU)

    registry = ModelRegistry(tmp_path / "models")
    first = replace(broken, labels=(replace(broken.labels[0], path=tmp_path / "broken.nii.gz"),))
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    training = [case for case in cases if case not in aside]
    alone = brought("a", 0, [*training, first])
    assert (alone.why, list(alone.refused)) == ("there was no model yet", [broken.id])
    assert registry.report("v0001")["validation"] is None
    assert registry.report("v0001")["validated_on"] == {}
    same = brought("b", 0, [*training, first, twin])
    assert same.why == "not worse than v0001 on 1 cases"
    assert list(registry.report("v0002")["validated_on"]) == ["twin"]
    assert "no validation case to use" in brought("c", 0, [*training, first]).why


def test_a_test_set_does_not_say_what_is_served(
    studies: Path, half: TaskSpec, store: FolderStore, tmp_path: Path
) -> None:
    from tests.conftest import TOY

    (studies / "task.yaml").write_text(TOY.replace("training: {", "training: {validation: 0.5, "))
    held_out = {case.id for case in split([case for case in store.cases() if case.label], 0.5)[1]}
    datalist, models = as_datalist(studies, test=held_out), tmp_path / "models"
    file = stored_model(tmp_path / "a.safetensors", half, {})
    ask = ["models", "import", str(file), "--studies", str(datalist), "--models", str(models)]
    answer = CliRunner().invoke(app, ask)
    assert answer.exit_code == 0, answer.output
    assert ModelRegistry(models / "toy").report("v0001")["validated_on"] == {}


def test_the_command_says_what_became_of_it(studies: Path, spec: TaskSpec, tmp_path: Path) -> None:
    from tests.conftest import TOY

    (studies / "task.yaml").write_text(TOY)
    file = stored_model(tmp_path / "a.safetensors", spec, {})
    ask = ["models", "import", str(file), "--studies", str(studies), "--models", str(tmp_path / "models")]
    answer = CliRunner().invoke(app, ask)
    assert answer.exit_code == 0, answer.output
    assert "v0001 is served: there was no model yet" in answer.output
