from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.errors import TrainingError
from maml_app.evaluation.evaluate import Segmenter, evaluate
from maml_app.stores.folder import FolderStore
from maml_app.training.progress import Progress
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.predict import load_model, segment
from maml_app.versions.registry import store_model

CPU = torch.device("cpu")
ON_CPU = Recipe(devices=(CPU,))


def test_training_repeats_bit_by_bit_and_reports(store: FolderStore, spec: TaskSpec) -> None:
    seen: list[Progress] = []
    one = train(spec, store.cases(), Recipe(seed=5, devices=(CPU,), report=seen.append))
    two = train(spec, store.cases(), Recipe(seed=5, devices=(CPU,)))
    other = train(spec, store.cases(), Recipe(seed=6, devices=(CPU,)))
    weights = [result.network.state_dict() for result in (one, two, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert {"prepare", "train"} <= {progress.stage for progress in seen}
    last = [progress for progress in seen if progress.stage == "train"][-1]
    assert (last.done, last.total) == (3, 3)
    assert {"fused", "experts", "mutual", "subset", "consistency", "total"} == set(last.losses)
    assert "train 3/3, epoch 2: loss" in str(last)


def test_training_on_few_cases_learns_them(store: FolderStore, spec: TaskSpec) -> None:
    """Some toy steps must beat the start clearly: the whole path from files to labels works."""
    longer = spec.model_copy(
        update={"training": spec.training.model_copy(update={"steps": 70, "learning_rate": 0.03, "validation": 0.0})}
    )
    cases = [case for case in store.cases() if case.label]
    start = train(spec, cases, ON_CPU).network
    trained = train(longer, cases, ON_CPU)
    before = evaluate(Segmenter(start, spec, spec.training.patch, CPU), cases)
    after = evaluate(Segmenter(trained.network, spec, spec.training.patch, CPU), cases)
    full = "ct+pet+mr_t1"
    assert (after.subsets[full].dice["organ"] or 0) > 0.75
    assert (after.subsets[full].mean or 0) > (before.subsets[full].mean or 0) + 0.2
    assert trained.validation is None
    assert sorted(trained.checkpoint.notes["trained_on"]) == [case.id for case in cases]


def test_a_warm_start_goes_on_from_what_it_gets(store: FolderStore, spec: TaskSpec) -> None:
    still = spec.model_copy(update={"training": spec.training.model_copy(update={"learning_rate": 1e-9})})
    first = train(spec, store.cases(), ON_CPU).network
    second = train(still, store.cases(), Recipe(devices=(CPU,), start=first))
    for name, weight in first.state_dict().items():
        assert torch.allclose(weight, second.network.state_dict()[name], atol=1e-6)
    assert second.checkpoint.notes["warm_start"] is True


def test_without_labels_training_says_so(store: FolderStore, spec: TaskSpec) -> None:
    unlabelled = [case for case in store.cases() if case.label is None]
    with pytest.raises(TrainingError, match="expected at least one case with a final label, got none among 1 cases"):
        train(spec, unlabelled, ON_CPU)


def test_a_loss_that_is_no_number_stops_training(store: FolderStore, spec: TaskSpec) -> None:
    wild = spec.model_copy(update={"training": spec.training.model_copy(update={"learning_rate": 1e30, "steps": 9})})
    with pytest.raises(TrainingError, match=r"expected a finite loss, got (nan|inf); lower training\.learning_rate"):
        train(wild, store.cases(), ON_CPU)


def test_evaluation_has_every_subset_with_its_cases(store: FolderStore, spec: TaskSpec) -> None:
    cases = [case for case in store.cases() if case.label]
    report = evaluate(Segmenter(train(spec, cases, ON_CPU).network, spec, spec.training.patch, CPU), cases)
    assert len(report.subsets) == 7
    assert {name: row.cases for name, row in report.subsets.items()} == {
        "ct": 3, "pet": 4, "mr_t1": 4, "ct+pet": 3, "ct+mr_t1": 3, "pet+mr_t1": 4, "ct+pet+mr_t1": 3,
    }  # fmt: skip
    assert sorted(report.cases["phantom_003"]) == ["mr_t1", "pet", "pet+mr_t1"]


def test_a_case_is_segmented_on_any_of_its_grids(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> None:
    trained = train(spec, store.cases(), ON_CPU)
    store_model(tmp_path / "m.safetensors", trained.network, trained.checkpoint)
    model = load_model(tmp_path / "m.safetensors", spec, "m", CPU)
    case = store.case("phantom_000")
    for asked in case.images:
        result = segment(model, case, asked, spec)
        assert result.label.shape == result.grid.shape
        assert result.used == ("ct", "pet", "mr_t1")
        assert set(result.volume_ml) == {"organ", "lesion"}
        assert 0 <= result.uncertainty <= 1
    without = segment(model, case, "ct", spec, leave_out=["pet", "mr_t1"])
    assert (without.used, without.missing) == (("ct",), ("pet", "mr_t1"))
