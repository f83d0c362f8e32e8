"""What Dice an answer promises itself, and what experience makes of that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maml_app.evaluation.quality import LEAST_CASES, Expectation, fitted, soft_dice
from maml_app.evaluation.scores import Scores


def test_the_promise_is_the_dice_that_the_probabilities_mean() -> None:
    chances = torch.tensor([[0.1, 0.3, 0.8, 1.0], [0.6, 0.3, 0.1, 0.0], [0.3, 0.4, 0.1, 0.0]]).reshape(3, 4, 1, 1)
    scored = {"a": (1,), "b": (2,), "both": (1, 2)}
    found = soft_dice(chances, scored)
    assert found["a"] == pytest.approx(2 * 0.6 / (1.0 + 1))
    assert found["b"] == pytest.approx(2 * 0.4 / (0.8 + 1))
    assert found["both"] == pytest.approx(2 * (0.9 + 0.7) / (1.8 + 2))
    assert soft_dice(chances.flip(0) * torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1), {"c": (2,)}) == {}


def test_probabilities_that_mean_what_they_say_promise_their_dice() -> None:
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(40, 40, 40, generator=generator) ** 3
    truth = torch.rand(40, 40, 40, generator=generator) < chance
    mask = chance > 0.5
    dice = 2 * int((mask & truth).sum()) / int(mask.sum() + truth.sum())
    assert soft_dice(torch.stack([1 - chance, chance]), {"x": (1,)})["x"] == pytest.approx(dice, abs=0.01)


def test_experience_is_a_line_with_the_spread_of_cases_around_it() -> None:
    rng = np.random.default_rng(0)
    pairs: dict[str, list[tuple[float, float]]] = {}
    for number in range(200):
        off = rng.normal(0, 0.05)  # of the case: its subsets are alike
        promised = rng.uniform(0.5, 0.95, 3)
        pairs[str(number)] = [(float(x), float(0.9 * x - 0.1 + off)) for x in promised]
    found = fitted(pairs)
    assert found is not None
    assert found.slope == pytest.approx(0.9, abs=0.03)
    assert found.intercept == pytest.approx(-0.1, abs=0.03)
    assert found.spread == pytest.approx(0.05, abs=0.01)
    assert found.dice({"a": 0.7, "b": 0.9}) == pytest.approx(0.9 * 0.8 - 0.1, abs=0.02)
    assert found.dice({}) is None
    assert Expectation.of(found.as_dict()) == found


def test_too_few_cases_or_a_model_that_does_not_know_promise_nothing_more() -> None:
    pairs = {str(number): [(0.5 + number / 20, 0.9 - number / 20)] for number in range(LEAST_CASES)}
    against = fitted(pairs)
    assert against is not None
    assert against.slope == 0
    assert against.dice({"a": 0.99}) == pytest.approx(0.8)
    assert fitted(dict(list(pairs.items())[1:])) is None
    same = fitted({name: [(0.7, 0.6)] for name in pairs})
    assert same is not None
    assert same.dice({"a": 0.7}) == pytest.approx(0.6)


def test_scores_tell_what_to_expect() -> None:
    dice = {str(n): {"ct": {"x": 0.1 * n, "y": None}} for n in range(6)}
    promised = {str(n): {"ct": {"x": 0.1 * n + 0.2}} for n in range(6)}
    found = Scores(("ct",), ("x", "y"), dice, promised).expectation
    assert found is not None
    assert found.dice({"x": 0.5}) == pytest.approx(0.3)
    assert Scores(("ct",), ("x", "y"), dice, promised).summary()["expectation"]["cases"] == 6
    assert "expectation" not in Scores(("ct",), ("x", "y"), dice).summary()
