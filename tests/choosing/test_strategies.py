"""The order of the waiting cases, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maml_app.cases.case import Case, FileRef, LabelRef
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.strategies import STRATEGIES, Pool, distances, rank, rarity
from maml_app.choosing.worth import CaseScore


def case(name: str, *modalities: str, labelled: bool = False) -> Case:
    images = {one: FileRef(Path(f"{name}/{one}.nii.gz")) for one in modalities or ("ct", "pet", "mr_t1")}
    return Case(name, images, (LabelRef(Path("l.nii.gz"), 1),) if labelled else ())


def score(name: str, divergence: float = 0.1, entropy: float = 0.1, **more: object) -> CaseScore:
    both = {"divergence": divergence, "entropy": entropy}
    result = CaseScore(
        case=name,
        version="v0001",
        present=("ct", "pet"),
        entropy=entropy,
        disagreement=divergence,
        dice_disagreement=0.2,
        pairs={"ct+pet": {"divergence": divergence, "differ_ml": 100 * divergence}},
        labels={"organ": dict(both), "lesion": dict(both)},
        foreground_ml=20.0,
        worst_slice=3,
        features=(0.0, 0.0),
    )
    return replace(result, **more)  # type: ignore[arg-type]


def pool(spec: TaskSpec, scores: list[CaseScore], labelled: tuple[str, ...] = (), seed: int = 0) -> Pool:
    waiting = [case(one.case) for one in scores if one.case not in labelled]
    return Pool(waiting, [case(name, labelled=True) for name in labelled], {s.case: s for s in scores}, spec, seed)


def order(strategy: str, given: Pool) -> list[str]:
    return [one.case for one in rank(strategy, given)]


def test_each_strategy_puts_first_what_it_is_for(spec: TaskSpec) -> None:
    given = pool(
        spec,
        [
            score("calm"),
            score("torn", entropy=0.9),
            score("split", divergence=0.5),
            score("far", features=(9.0, -9.0)),
            score("empty", foreground_ml=0.0),
        ],
    )
    assert order("entropy", given)[0] == "torn"
    assert order("disagreement", given)[0] == "split"
    assert order("diverse", given)[0] == "far"
    assert order("foreground_random", given)[-1] == "empty"
    assert order("first", given) == ["calm", "torn", "split", "far", "empty"]
    assert sorted(order("random", given)) == sorted(order("first", given))
    for strategy in STRATEGIES:
        places = [(one.place, one.of) for one in rank(strategy, given)]
        assert places == [(place, 5) for place in range(1, 6)]


def test_maml_prefers_disagreement_entropy_and_unlikeness_on_average(spec: TaskSpec) -> None:
    scores = [score("split", divergence=0.5, entropy=0.5, features=(3.0, 3.0)), *(score(f"calm_{n}") for n in range(5))]
    tops = [order("maml", pool(spec, scores, seed=seed))[0] for seed in range(40)]
    assert tops.count("split") > 20
    assert len(set(tops)) > 1  # power noise: never one after another by the same rule alone
    assert order("maml", pool(spec, scores, seed=3)) == order("maml", pool(spec, scores, seed=3))


def test_noise_fades_as_labels_grow(spec: TaskSpec) -> None:
    scores = [score("split", divergence=0.3, entropy=0.3), *(score(f"calm_{n}") for n in range(5))]
    known = tuple(f"known_{n}" for n in range(60))
    few = [order("maml", pool(spec, scores, seed=seed))[0] for seed in range(40)]
    many = [
        order("maml", pool(spec, [*scores, *map(score, known)], labelled=known, seed=seed))[0] for seed in range(40)
    ]
    assert many.count("split") > few.count("split")


def test_what_a_pair_always_disagrees_on_does_not_lead(spec: TaskSpec) -> None:
    always = {"ct+pet": {"divergence": 0.4, "differ_ml": 40.0}, "ct+mr_t1": {"divergence": 0.01, "differ_ml": 0.2}}
    odd = {"ct+pet": {"divergence": 0.4, "differ_ml": 40.0}, "ct+mr_t1": {"divergence": 0.2, "differ_ml": 9.0}}
    scores = [*(score(f"usual_{n}", pairs=always) for n in range(5)), score("odd", pairs=odd)]
    ranked = rank("disagreement", pool(spec, scores))
    assert ranked[0].case == "odd"
    assert ranked[0].reason.startswith("ct and mr_t1 disagree on 9.0 ml")


def test_greedy_choice_takes_one_of_each_kind_before_a_second(spec: TaskSpec) -> None:
    groups = {"a": (0.0, 0.0), "b": (10.0, 0.0), "c": (0.0, 10.0)}
    scores = [score(f"{name}{n}", features=(x + 0.1 * n, y)) for name, (x, y) in groups.items() for n in range(3)]
    given = pool(spec, scores, labelled=("a0",))
    values = distances(given)
    first = sorted(values, key=lambda one: -values[one])[:2]
    assert {one[0] for one in first} == {"b", "c"}


def test_cases_without_a_score_come_last_and_say_so(spec: TaskSpec) -> None:
    given = pool(spec, [score("scored")])
    given = replace(given, waiting=[case("new"), *given.waiting])
    ranked = rank("maml", given)
    assert [one.case for one in ranked] == ["scored", "new"]
    assert (ranked[1].value, ranked[1].reason) == (None, "not looked at by a model yet")
    assert [one.case for one in rank("entropy", replace(given, scores={}))] != []


def test_reasons_name_what_is_missing_and_rare(spec: TaskSpec) -> None:
    waiting = [case("lacks", "pet", "mr_t1")]
    given = Pool(waiting, [case("known", labelled=True)], {"lacks": score("lacks", entropy=0.5)}, spec)
    assert rank("maml", given)[0].reason == (
        "ct and pet disagree on 10.0 ml; unsure of 20.0 ml; no ct; no labelled case lacks the same; "
        "unlike the labelled cases"
    )
    again = Pool(waiting, [case("known", "pet", "mr_t1", labelled=True)], {}, spec)
    assert rank("maml", again)[0].reason == "not looked at by a model yet; no ct"


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_nothing_waits_and_nothing_is_scored(spec: TaskSpec, strategy: str) -> None:
    assert rank(strategy, Pool([], [], {}, spec)) == []
    assert len(rank(strategy, Pool([case("a"), case("b")], [], {}, spec))) == 2


def test_a_pattern_of_missing_modalities_that_no_label_has_is_rare(spec: TaskSpec) -> None:
    waiting = [case("whole"), case("no_pet", "ct", "mr_t1"), case("no_ct", "pet", "mr_t1")]
    labelled = [case(f"known_{n}", labelled=True) for n in range(3)] + [case("known_3", "ct", "mr_t1", labelled=True)]
    given = Pool(waiting, labelled, {}, spec)
    assert rarity(given) == {"whole": 0, "no_pet": pytest.approx(0.5), "no_ct": pytest.approx(0.75)}
    alike = Pool(waiting[:1] * 2, labelled, {}, spec)
    assert rarity(alike) == {"whole": 0}
    scores = {one.id: score(one.id) for one in waiting}
    tops = [rank("maml", Pool(waiting, labelled, scores, spec, seed))[0].case for seed in range(40)]
    assert tops.count("no_ct") > tops.count("whole") + 5


def test_before_the_first_model_the_most_unlike_come_first_and_the_unseen_last(spec: TaskSpec) -> None:
    looks = {"plain": (0.0, 0.1), "alike": (0.1, 0.0), "far": (9.0, -9.0), "other": (-4.0, 4.0)}
    scores = [score(name, 0.0, 0.0, version="none", foreground_ml=0.0, features=seen) for name, seen in looks.items()]
    given = pool(spec, scores)
    unseen = Pool([*given.waiting, case("unseen")], [], given.scores, spec)
    for strategy in ("maml", "disagreement", "entropy", "diverse", "foreground_random"):
        assert order(strategy, unseen)[:2] == ["far", "other"], strategy
        assert order(strategy, unseen)[-1] == "unseen"
    assert order("first", unseen)[0] == "plain"
