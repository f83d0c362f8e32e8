from __future__ import annotations

import numpy as np
import pytest

from maml_app.evaluation.evaluate import compare
from maml_app.evaluation.metrics import bootstrap_interval, dice, dice_scores, mean


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
