from __future__ import annotations

from maml_app.evaluation.scores import CaseDice, Scores
from maml_app.versions.gate import forgotten, weigh


def report(**cases: dict[str, float | None]) -> Scores:
    """Dice of "lesion" by case and subset."""
    dice = {name: {subset: {"lesion": v} for subset, v in scores.items()} for name, scores in cases.items()}
    return Scores(("ct", "pet"), ("lesion",), dice)


OLD = report(a={"ct": 0.8, "ct+pet": 0.9}, b={"ct": 0.6, "ct+pet": 0.7})


def test_better_or_as_good_is_published() -> None:
    outcome = weigh(report(a={"ct": 0.79, "ct+pet": 0.95}, b={"ct": 0.6, "ct+pet": 0.7}), OLD, "v0001", 0.02)
    assert (outcome.publish, outcome.reasons, outcome.cases, outcome.against) == (True, (), 2, "v0001")


def test_one_subset_that_got_worse_is_enough_and_named() -> None:
    outcome = weigh(report(a={"ct": 0.5, "ct+pet": 0.99}, b={"ct": 0.6, "ct+pet": 0.99}), OLD, "v0001", 0.02)
    assert not outcome.publish
    assert outcome.reasons == ("lesion from ct: Dice 0.550, was 0.700 (2 cases)",)


def test_only_the_same_cases_are_compared() -> None:
    outcome = weigh(report(a={"ct": 0.8, "ct+pet": 0.9}, new={"ct": 0.1, "ct+pet": 0.1}), OLD, "v0001", 0.02)
    assert (outcome.publish, outcome.cases) == (True, 1)


def test_finding_a_lesion_where_there_is_none_is_worse() -> None:
    outcome = weigh(report(a={"ct": 0.0}), report(a={"ct": None}), "v0001", 0.02)
    assert outcome.reasons == ("lesion from ct: Dice 0.000, was 1.000 (1 cases)",)
    assert weigh(report(a={"ct": None}), report(a={"ct": 0.0}), "v0001", 0.02).publish


def test_a_case_that_was_forgotten_is_named_though_the_mean_is_fine() -> None:
    def scored(*scores: tuple[float | None, float]) -> Scores:
        parts: CaseDice = {"ct": {"organ": 0.1}, "mr": {"organ": 0.1}}
        dice = {f"case_{n}": {**parts, "ct+mr": {"organ": one, "lesion": two}} for n, (one, two) in enumerate(scores)}
        return Scores(("ct", "mr"), ("organ", "lesion"), dice)

    before = scored((0.8, 0.8), (0.9, 0.5), (None, 0.4))
    after = scored((0.95, 0.95), (0.6, 0.5), (None, 0.4))
    assert forgotten(after, before, ["case_0", "case_1", "case_2", "case_9"]) == ["case_1: Dice 0.550, was 0.700"]
    assert forgotten(after, before, ["case_0"]) == []
    assert forgotten(before, before, ["case_0", "case_1", "case_2"]) == []
