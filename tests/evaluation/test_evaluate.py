from __future__ import annotations

import numpy as np
import pytest

from maml_app.evaluation.metrics import bootstrap_interval, dice, dice_scores, mean
from maml_app.evaluation.scores import CaseDice, Scores


def scores(**cases: CaseDice) -> Scores:
    return Scores(("ct", "pet"), ("x",), cases)


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
    ours = scores(a={"ct": {"x": 0.5}}, b={"ct": {"x": 0.9}}, c={"ct": {"x": 1.0}})
    theirs = scores(a={"ct": {"x": 0.4}}, b={"ct": {"x": 0.8}})
    result = ours.compared(theirs)
    assert set(result) == {"ct", "mean"}
    assert result["ct"].cases == 2
    assert result["ct"].difference == pytest.approx(0.1)
    assert result["ct"].interval == pytest.approx((0.1, 0.1))


def test_all_modalities_are_those_of_the_case_and_of_the_task() -> None:
    both = {"ct": {"x": 0.1}, "pet": {"x": 0.2}, "ct+pet": {"x": 0.6}}
    found = scores(whole=both, part={"pet": {"x": 0.4}})
    assert [found.all_of(case) for case in ("whole", "part")] == ["ct+pet", "pet"]
    assert found.full == pytest.approx(0.6)
    assert {name: row.cases for name, row in found.subsets.items()} == {"ct": 1, "pet": 2, "ct+pet": 1}
    assert found.subsets["pet"].mean == pytest.approx(0.3)
    assert found.mean == pytest.approx((0.1 + 0.3 + 0.6) / 3)
    assert scores(part={"pet": {"x": None}}).full is None
    assert scores().mean is None
