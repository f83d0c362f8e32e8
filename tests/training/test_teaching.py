"""Cases without a label: which of them teach, what, and from when on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.network.ensemble import build_network
from maml_app.network.window import predict
from maml_app.stores.folder import FolderStore
from maml_app.training import teaching as module
from maml_app.training.dataset import UNKNOWN, build_samples, load_sample
from maml_app.training.recipe import Recipe
from maml_app.training.split import is_validation
from maml_app.training.teaching import Teaching, unlabelled
from maml_app.training.train import Trained, cross_validate, train

CPU = torch.device("cpu")


def taught(spec: TaskSpec, **options: Any) -> TaskSpec:
    """The task with its unlabelled cases in use, every voxel of theirs believed."""
    options = {"unlabelled": 1.0, "validation": 0.0, **options}
    return spec.model_copy(update={"training": spec.training.model_copy(update=options)})


@pytest.fixture(autouse=True)
def _believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps make nobody sure."""
    monkeypatch.setattr(module, "SURE", 0.0)


@pytest.fixture
def cases(store: FolderStore) -> list[Case]:
    """The first two labelled, three not."""
    return [case if number < 2 else replace(case, labels=()) for number, case in enumerate(store.cases())]


def run(spec: TaskSpec, cases: list[Case], told: list[str] | None = None) -> Trained:
    lines = [] if told is None else told
    return train(spec, cases, Recipe(seed=1, devices=(CPU,), report=lambda progress: lines.append(str(progress))))


def same(one: Trained, two: Trained) -> bool:
    pairs = zip(one.network.state_dict().values(), two.network.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_they_teach_only_where_the_task_asks_for_it(cases: list[Case], spec: TaskSpec) -> None:
    told: list[str] = []
    without, with_them = run(taught(spec, unlabelled=0.0), cases), run(taught(spec), cases, told)
    assert same(without, run(taught(spec, unlabelled=0.0), cases[:2]))
    assert not same(without, with_them)
    assert same(with_them, run(taught(spec), cases))
    assert any("cases teach that nobody has labelled" in line for line in told)
    assert any("unlabelled" in line for line in told if line.startswith("train "))
    notes = with_them.checkpoint.notes
    assert notes["taught_without_label"] == [case.id for case in cases[2:]]
    assert set(notes["trained_on"]) == {case.id for case in cases[:2]}
    assert set(notes["patients"]) == {case.id for case in cases}
    assert without.checkpoint.notes["taught_without_label"] == []


def test_nobody_of_the_validation_teaches_and_no_more_than_allowed(cases: list[Case], spec: TaskSpec) -> None:
    half = taught(spec, validation=0.5)
    many = [replace(cases[4], id=f"case-{number}", patient="") for number in range(40)]
    chosen = unlabelled([*cases, *many], half)
    assert chosen
    assert not any(is_validation(case.patient_id, 0.5) for case in chosen)
    assert not {case.id for case in chosen} & {case.id for case in cases[:2]}
    few = unlabelled([*many, *cases], taught(spec, validation=0.5, unlabelled_cases=5))
    assert [case.id for case in few] == [case.id for case in chosen[:5]]  # the same ones, however they are listed
    assert unlabelled(cases, taught(spec, unlabelled=0.0)) == []
    assert unlabelled([replace(case, problems=("two patients",)) for case in cases], half) == []


def test_one_that_cannot_be_used_costs_only_itself(cases: list[Case], spec: TaskSpec, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"nothing")
    images = {name: replace(ref, path=broken) for name, ref in cases[3].images.items()}
    told: list[str] = []
    trained = run(taught(spec), [*cases[:3], replace(cases[3], images=images), cases[4]], told)
    assert trained.checkpoint.notes["taught_without_label"] == [cases[2].id, cases[4].id]
    assert any(line.startswith(f"{cases[3].id} has no label and cannot teach without") for line in told)
    assert not trained.refused  # nobody had labelled it


def test_the_label_is_what_the_teacher_is_sure_of(
    cases: list[Case], spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SURE", 0.4)
    task = taught(spec)
    samples = [load_sample(*item) for item in build_samples(cases, task, tmp_path / "prepared").items()]
    assert [sample.label is None for sample in samples] == [False, False, True, True, True]
    torch.manual_seed(3)
    teacher = build_network(3, 3, spec.network).train()
    lessons = Teaching(samples, task, Recipe(), tmp_path)
    assert lessons.at(0, teacher, print) == []  # it has not learnt yet
    ((patches, weight),) = lessons.at(1, teacher, print)
    assert weight == 1.0
    assert teacher.training
    assert lessons.at(2, teacher, print)[0][0] is not patches  # labelled anew
    assert patches.samples
    for sample in patches.samples:
        images = torch.from_numpy(sample.images.astype(np.float32))
        said = predict(teacher, images, torch.from_numpy(sample.presence), (16, 16, 16))
        assert sample.label is not None
        known = sample.label != UNKNOWN
        assert 0 < known.mean() < 1
        assert np.array_equal(known, said.amax(dim=0).numpy() >= 0.4)
        assert np.array_equal(sample.label[known], said.argmax(dim=0).numpy()[known])
        for value, places in zip(sample.values, sample.places, strict=True):
            assert (sample.label[tuple(places.T)] == value).all()


def test_a_network_that_goes_on_teaches_at_once(cases: list[Case], spec: TaskSpec, tmp_path: Path) -> None:
    samples = [load_sample(*item) for item in build_samples(cases, spec, tmp_path / "prepared").items()]
    start = build_network(3, 3, spec.network)
    assert 0 in Teaching(samples, taught(spec), Recipe(start=start), tmp_path).lessons
    assert Teaching(samples, taught(spec, steps=100), Recipe(), tmp_path).lessons == {40, 70}
    assert not Teaching(samples[:2], taught(spec), Recipe(start=start), tmp_path).lessons


def test_what_the_teacher_does_not_see_at_all_teaches_nothing(
    cases: list[Case], spec: TaskSpec, tmp_path: Path
) -> None:
    samples = [load_sample(*item) for item in build_samples(cases, spec, tmp_path / "prepared").items()]
    blind = build_network(3, 3, spec.network)
    with torch.no_grad():
        for name, weight in blind.named_parameters():
            weight.zero_()
            if name.endswith("bias") and weight.shape == (3,):
                weight.copy_(torch.tensor([9.0, 0.0, 0.0]))  # background everywhere
    told: list[str] = []
    assert Teaching(samples, taught(spec), Recipe(), tmp_path).at(1, blind, told.append) == []
    assert told == ["from step 2 on 0 of 3 cases teach that nobody has labelled"]


def test_every_fold_of_a_cross_validation_uses_them(
    cases: list[Case], spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(given: list[Case], task: TaskSpec) -> list[Case]:
        asked.append(len(unlabelled(given, task)))
        return []

    monkeypatch.setattr("maml_app.training.train.unlabelled", counted)
    assert cross_validate(taught(spec), cases, 2, Recipe(seed=1, devices=(CPU,))) is not None
    assert asked == [3, 3]
