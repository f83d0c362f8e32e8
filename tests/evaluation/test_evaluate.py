from __future__ import annotations

from dataclasses import replace

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


def test_an_interval_is_of_the_number_beside_it() -> None:
    """Structures and subsets that few cases have weigh as much in the mean as others; so they do in each draw."""
    rare = {f"c{n}": {"ct": {"x": 0.9, "y": None}} for n in range(9)} | {"c9": {"ct": {"x": 0.9, "y": 0.0}}}
    found = Scores(("ct", "pet"), ("x", "y"), rare)
    row = found.subsets["ct"]
    assert row.mean == found.mean == pytest.approx(0.45)
    assert row.interval == found.interval == pytest.approx((0.45, 0.9))  # with and without the one case that has it
    some: dict[str, CaseDice] = {f"c{n}": {"ct": {"x": 0.9}} for n in range(6)}
    low = {"x": 0.3}
    some |= {f"d{n}": {"ct": low, "pet": low, "ct+pet": low} for n in range(2)}
    found = scores(**some)
    assert found.interval
    assert found.interval[0] < (found.mean or 0) < found.interval[1]
    # as draws that are scored one by one
    rng, names = np.random.default_rng(1), list(some)
    drawn = [{str(n): some[names[place]] for n, place in enumerate(rng.integers(0, 8, 8))} for _ in range(400)]
    means = [mean([row.dice["x"] for row in scores(**cases).subsets.values()]) for cases in drawn]
    assert found.interval == pytest.approx(tuple(np.percentile(np.array(means, float), [2.5, 97.5])), abs=0.06)


def test_an_interval_draws_all_examinations_of_a_patient_together() -> None:
    cases: dict[str, CaseDice] = {f"p{n // 4}_{n}": {"ct": {"x": n // 4 / 4}} for n in range(20)}
    alone = scores(**cases)
    whole = replace(alone, patients={case_id: case_id.split("_")[0] for case_id in cases})
    assert alone.interval
    assert whole.interval
    assert whole.mean == alone.mean
    # five patients, not twenty cases
    assert whole.interval[1] - whole.interval[0] > 1.7 * (alone.interval[1] - alone.interval[0])
    assert replace(alone, patients=dict.fromkeys(cases, "one")).interval is None


def test_finding_nothing_where_there_is_nothing_is_better_in_a_comparison() -> None:
    sick: CaseDice = {"ct": {"x": 0.8}}
    quiet = scores(sick=sick, a={"ct": {"x": None}}, b={"ct": {"x": None}}, c={"ct": {"x": None}})
    noisy = scores(sick=sick, a={"ct": {"x": 0.0}}, b={"ct": {"x": 0.0}}, c={"ct": {"x": None}})
    better = quiet.minus(noisy, "ct")
    assert better
    assert better.cases == 3
    assert better.difference == pytest.approx(2 / 3)
    worse = noisy.minus(quiet)
    assert worse
    assert worse.difference == pytest.approx(-2 / 3)
    assert scores(c={"ct": {"x": None}}).minus(quiet) is None


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
