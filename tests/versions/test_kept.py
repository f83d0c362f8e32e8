"""What a model saw of a case is kept; overlays lie where their images lie, on oblique, anisotropic grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import ArchiveError, CaseError, ImageError, MamlError, ObjectError
from maml_app.evaluation.evaluate import evaluate_thoroughly
from maml_app.imaging.files import read_grid, read_image
from maml_app.imaging.preprocess import prepare
from maml_app.network.window import predict, predict_opinions
from maml_app.stores.folder import FolderStore
from maml_app.versions import predict as module
from maml_app.versions.kept import Kept
from maml_app.versions.overlays import LEVELS, doubt_levels, image_levels
from maml_app.versions.predict import Model, load_model, segment
from tests.builders import brain, lesion, oblique, save, shipped, stored_model, tissue

BRATS = shipped("brats_mr")
CPU = torch.device("cpu")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    brain(tmp_path / "A")
    return FolderStore(tmp_path, BRATS).case("A")


@pytest.fixture
def model(tmp_path: Path, small: TaskSpec) -> Model:
    return load_model(stored_model(tmp_path / "m.safetensors", small), small, "v0001", CPU)


@pytest.fixture
def small() -> TaskSpec:
    """The task with a network that is quick to run."""
    network = BRATS.network.model_copy(update={"channels": (4, 8), "strides": ((1, 1, 1), (2, 2, 2))})
    training = BRATS.training.model_copy(update={"patch": (32, 32, 32)})
    coarse = BRATS.preprocess.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)})
    return BRATS.model_copy(update={"network": network, "training": training, "preprocess": coarse})


def test_the_experts_are_asked_once_a_case(
    case: Case, model: Model, small: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*words: Any) -> Any:
        calls.append(words)
        return predict_opinions(*words)

    monkeypatch.setattr(module, "predict_opinions", counted)
    first = segment(model, case, "t1", small)
    again = segment(model, case, "flair", small)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.label, again.label)  # they share a grid
    prepared = prepare(case, small)
    plain = predict(model.network, prepared.images, prepared.presence, model.checkpoint.patch)
    (seen,) = model.kept._seen.values()
    assert torch.equal(seen.opinions.fused, plain)
    segment(model, case, "t1", small, leave_out=["flair"])
    assert len(calls) == 2
    save(case.images["flair"].path, tissue(400, 9))  # other voxels under the same name
    segment(model, case, "t1", small)
    assert len(calls) == 3


def test_no_more_is_kept_than_there_is_room_for(case: Case, model: Model, small: TaskSpec) -> None:
    size = module.look(model, case, small).size
    kept = Kept(limit=2 * size)
    seen = [kept.of(name, lambda: module.look(model, case, small)) for name in "abc"]
    assert len(seen) == 3
    assert list(kept._seen) == ["b", "c"]
    assert Kept(limit=0).of("a", lambda: seen[0]) is seen[0]
    assert not Kept(limit=0)._seen


def test_a_modality_lies_over_another_where_it_is(tmp_path: Path) -> None:
    affine = oblique((3.0, 6.0, 5.0))
    affine[:3, 3] += (2.0, -1.0, 4.0)
    brain(tmp_path / "A")
    hot = np.full((12, 10, 8), 100.0, np.float32) + np.random.default_rng(0).normal(0, 5, (12, 10, 8))
    hot[2:5, 6:8, 3:5] = 900.0
    save(tmp_path / "A" / "t2.nii.gz", hot.astype(np.float32), affine)
    case = FolderStore(tmp_path, BRATS).case("A")
    levels = image_levels(case, "t2", "t1", BRATS)
    grid = read_grid(case.grids["t1"])
    assert levels.shape == grid.shape
    assert levels.max() <= LEVELS
    centre = read_image(case.grids["t2"]).grid.affine @ (3.0, 6.5, 3.5, 1.0)
    there = np.argwhere(levels >= LEVELS // 2).mean(axis=0)
    assert np.linalg.norm((grid.affine @ (*there, 1.0) - centre)[:3]) < 3.0  # less than the shortest edge
    with pytest.raises(CaseError, match="expected a modality that can be shown, got 'pet'"):
        image_levels(case, "pet", "t1", BRATS)


def test_doubt_is_where_the_experts_differ(case: Case, model: Model, small: TaskSpec) -> None:
    seen = module.look(model, case, small)
    fused = torch.zeros_like(seen.opinions.fused)
    fused[0] = 1
    fused[:, 6:12, 5:10, 7:14] = 1 / len(fused)  # on the network's grid of 2 mm
    one, two = (torch.zeros_like(fused, dtype=torch.float16) for _ in range(2))
    one[0], two[0] = 1, 1
    two[:, 12:18, 13:18, 14:21] = 0
    two[1, 12:18, 13:18, 14:21] = 1
    opinions = replace(seen.opinions, fused=fused, experts={0: one, 1: two})
    (key,) = model.kept._seen
    model.kept._seen[key] = replace(seen, opinions=opinions)
    grid, asked = seen.prepared.grid, read_grid(case.grids["t1"])
    for of, middle in (("uncertainty", (8.5, 7.0, 10.0)), ("disagreement", (14.5, 15.0, 17.0))):
        levels = doubt_levels(model, case, of, "t1", small)
        assert levels.any()
        there = np.argwhere(levels == levels.max()).mean(axis=0)
        centre = grid.affine @ (*middle, 1.0)
        assert np.linalg.norm((asked.affine @ (*there, 1.0) - centre)[:3]) < 4.0


def refuses(error: MamlError) -> Callable[[], None]:
    def fetch() -> None:
        raise error

    return fetch


@pytest.mark.parametrize(
    "error", [None, ImageError("t2: in a transfer syntax"), ObjectError("t2: answered 500")], ids=str
)
def test_an_image_that_cannot_be_had_costs_only_itself(
    case: Case, model: Model, small: TaskSpec, error: MamlError | None
) -> None:
    """A link to a file that is gone, and what an archive does not give."""
    lost = case.images["t2"]
    if error is None:
        lost.path.rename(lost.path.with_name("elsewhere.nii.gz"))
        lost.path.symlink_to("nowhere.nii.gz")
    else:
        lost = replace(lost, fetch=refuses(error))
    broken = replace(case, images={**case.images, "t2": lost})
    answer = segment(model, broken, "t1", small)
    assert "t2" not in answer.used
    assert list(answer.left_out) == ["t2"]
    assert ("t2: " in answer.left_out["t2"]) if error else ("none that can be read" in answer.left_out["t2"])
    if error is None:  # it comes back: that is another case
        lost.path.unlink()
        lost.path.with_name("elsewhere.nii.gz").rename(lost.path)
        whole = segment(model, case, "t1", small)
        assert "t2" in whole.used
        assert not whole.left_out


def test_an_archive_that_cannot_be_asked_is_not_a_case_with_less(case: Case, model: Model, small: TaskSpec) -> None:
    away = replace(case.images["t2"], fetch=refuses(ArchiveError("is the archive running?")))
    with pytest.raises(ArchiveError, match="is the archive running"):
        segment(model, replace(case, images={**case.images, "t2": away}), "t1", small)


def test_scoring_tells_what_it_did_without(tmp_path: Path, model: Model, small: TaskSpec) -> None:
    brain(tmp_path / "studies" / "B", lesion())
    case = FolderStore(tmp_path / "studies", BRATS).case("B")
    lost = replace(case.images["t2"], fetch=refuses(ObjectError("t2: answered 500")))
    case = replace(case, images={"t1": case.images["t1"], "t2": lost})
    found = evaluate_thoroughly(model.segmenter(small), [case])
    assert list(found.scores.cases["B"]) == ["t1"]
    assert found.left_out == {"B": {"t2": "t2: answered 500"}}
