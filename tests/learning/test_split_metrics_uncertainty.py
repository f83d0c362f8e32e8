from __future__ import annotations

import numpy as np
import pytest
import torch

from maml_app.cases.case import Case
from maml_app.learning.evaluate import compare
from maml_app.learning.metrics import bootstrap_interval, dice, dice_scores, mean
from maml_app.learning.split import is_validation, split
from maml_app.learning.uncertainty import foreground_entropy


def cases(*ids: str) -> list[Case]:
    return [Case(one, {}) for one in ids]


def test_a_case_never_changes_sides_as_more_are_labelled() -> None:
    ids = [f"case{number}" for number in range(60)]
    before = {case.id for case in split(cases(*ids[:30]), 0.2)[1]}
    after = {case.id for case in split(cases(*ids), 0.2)[1]}
    assert before == after & set(ids[:30])
    assert 4 <= len(after) <= 20


def test_the_split_is_by_patient_and_never_leaves_training_empty() -> None:
    two = [Case("a_ses-1", {}, patient="a"), Case("a_ses-2", {}, patient="a")]
    train, validation = split(two, 0.5)
    assert not train or not validation
    held = next(f"p{number}" for number in range(100) if is_validation(f"p{number}", 0.2))
    assert split(cases(held), 0.2) == (cases(held), [])


def test_the_split_is_frozen() -> None:
    """These sides must never change: models published earlier were validated on them."""
    assert [is_validation(f"STS_{number:03d}", 0.2) for number in (2, 3, 18, 21, 34)] == [True, False, True, True, True]


def test_dice_of_known_masks() -> None:
    truth = np.array([0, 1, 1, 2, 2, 0])
    answer = np.array([0, 1, 2, 2, 2, 2])
    assert dice(answer, truth, [1]) == pytest.approx(2 * 1 / 3)
    assert dice(answer, truth, [1, 2]) == pytest.approx(2 * 4 / 9)
    assert dice(answer, truth, [3]) is None
    assert dice(answer * 0, truth, [1]) == 0
    assert dice_scores(answer, truth, {"a": (1,), "b": (3,)}) == {"a": pytest.approx(2 / 3), "b": None}
    assert mean([None, 1.0, 0.5]) == 0.75
    assert mean([None]) is None


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_cases() -> None:
    few, many = [0.2, 0.8, 0.5, 0.6], [0.2, 0.8, 0.5, 0.6] * 25
    low, high = bootstrap_interval(few) or (0, 0)
    assert low < np.mean(few) < high
    narrow = bootstrap_interval(many) or (0, 1)
    assert narrow[1] - narrow[0] < (high - low) / 3
    # the textbook width: 1.96 standard errors each way
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * np.std(many) / 10, rel=0.1)
    assert bootstrap_interval([0.5]) is None


def test_a_comparison_is_paired_by_case() -> None:
    ours = {"subsets": {"ct": {}}, "cases": {"a": {"ct": {"x": 0.5}}, "b": {"ct": {"x": 0.9}}, "c": {"ct": {"x": 1.0}}}}
    theirs = {"cases": {"a": {"ct": {"x": 0.4}}, "b": {"ct": {"x": 0.8}}}}
    result = compare(ours, theirs)
    assert set(result) == {"ct", "mean"}
    assert result["ct"]["cases"] == 2
    assert result["ct"]["difference"] == pytest.approx(0.1)
    assert result["ct"]["interval"] == pytest.approx((0.1, 0.1))


def test_entropy_of_known_probabilities() -> None:
    sure = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 3, 3)
    torn = torch.full((2, 3, 3, 3), 0.5)
    background = torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, 3, 3, 3)
    assert foreground_entropy(sure) == pytest.approx(0, abs=1e-5)
    assert foreground_entropy(torn) == pytest.approx(1, abs=1e-5)
    assert foreground_entropy(background) == 0
    # a large sure background does not dilute a torn lesion
    assert foreground_entropy(torch.cat([background, background, torn], dim=1)) == pytest.approx(1, abs=1e-5)
