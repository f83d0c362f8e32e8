"""Analytic answers: agreement, opposition, and what one voxel weighs."""

from __future__ import annotations

import math

import pytest
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.choosing.worth import CaseScore, corrected_disagreement, over, score_opinions, usual_divergence
from maml_app.evaluation.uncertainty import divergence_map, entropy_map
from maml_app.network.ensemble import build_network
from maml_app.network.window import Opinions, predict, predict_opinions

SHAPE = (12, 10, 8)


def sure(value: int, classes: int = 3) -> torch.Tensor:
    """Everywhere the one class."""
    result = torch.zeros(classes, *SHAPE)
    result[value] = 1
    return result


def blob(value: int, box: tuple[slice, slice, slice], classes: int = 3) -> torch.Tensor:
    result = sure(0, classes)
    result[0][box] = 0
    result[value][box] = 1
    return result


BOX = (slice(2, 8), slice(2, 8), slice(2, 6))
HALF = (slice(2, 5), slice(2, 8), slice(2, 6))


def scored(spec: TaskSpec, fused: torch.Tensor, *experts: torch.Tensor, voxel_ml: float = 1.0) -> CaseScore:
    opinions = Opinions(fused, dict(enumerate(experts)), torch.zeros(4))
    return score_opinions(opinions, "case", "v0001", spec, voxel_ml)


def test_entropy_and_divergence_of_known_distributions() -> None:
    even = torch.full((4, 2), 0.25)
    assert entropy_map(even).tolist() == pytest.approx([math.log(4)] * 2, rel=1e-5)
    assert divergence_map([even, even]).tolist() == pytest.approx([0, 0], abs=1e-6)
    one, two = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    assert divergence_map([one, two]).item() == pytest.approx(math.log(2), rel=1e-5)
    assert divergence_map([one, one, two]).item() == pytest.approx(
        -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)), rel=1e-5
    )
    assert divergence_map([one]).item() == pytest.approx(0, abs=1e-6)


def test_identical_experts_give_0_and_opposed_ones_ln_2(spec: TaskSpec) -> None:
    lesion = blob(2, BOX)
    same = scored(spec, lesion, lesion, lesion)
    assert same.disagreement == pytest.approx(0, abs=1e-6)
    assert same.dice_disagreement == 0
    assert same.entropy == pytest.approx(0, abs=1e-6)
    # opposed over a region so large that the prior of 1 ml weighs nothing
    opposed = scored(spec, lesion, lesion, blob(1, BOX), voxel_ml=1e6)
    assert opposed.disagreement == pytest.approx(math.log(2), rel=1e-4)
    assert opposed.dice_disagreement == 1
    assert opposed.pairs["ct+pet"]["divergence"] == pytest.approx(math.log(2), rel=1e-4)
    assert opposed.pairs["ct+pet"]["differ_ml"] == 144e6
    assert opposed.foreground_ml == 144e6


def test_one_uncertain_background_voxel_does_not_outrank_an_uncertain_lesion(spec: TaskSpec) -> None:
    voxel = (slice(0, 1), slice(0, 1), slice(0, 1))
    odd = sure(0)
    odd[:, 0, 0, 0] = torch.tensor([0.3, 0.35, 0.35])  # as uncertain as can be
    background = scored(spec, odd, blob(1, voxel), blob(2, voxel), voxel_ml=0.05)
    torn = blob(2, BOX)
    torn[:, BOX[0], BOX[1], BOX[2]] = torch.tensor([0.4, 0.1, 0.5])[:, None, None, None]  # less so, but a lesion
    lesion = scored(spec, torn, torn, blob(2, BOX), voxel_ml=0.05)
    assert background.entropy < lesion.entropy
    assert background.disagreement < lesion.disagreement


def test_background_far_away_changes_nothing(spec: TaskSpec) -> None:
    def padded(one: torch.Tensor) -> torch.Tensor:
        wide = torch.nn.functional.pad(one, (5, 5, 5, 5, 5, 5))
        wide[0] += (wide.sum(dim=0) == 0).float()
        return wide

    experts = (blob(2, BOX), blob(2, HALF))
    near = scored(spec, experts[0], *experts)
    far = scored(spec, padded(experts[0]), *map(padded, experts))
    assert (near.entropy, near.disagreement, near.pairs) == (far.entropy, far.disagreement, far.pairs)


def test_labels_are_told_apart_and_the_worst_slice_is_where_they_differ(spec: TaskSpec) -> None:
    organ, lesion = blob(1, (slice(0, 3), slice(0, 3), slice(0, 3))), blob(2, (slice(6, 9), slice(6, 9), slice(6, 8)))
    both = torch.maximum(organ, lesion)
    both[0] = 1 - both[1:].sum(dim=0)
    score = scored(spec, both, both, organ)  # the second expert does not see the lesion
    assert score.labels["organ"]["divergence"] == pytest.approx(0, abs=1e-6)
    assert score.labels["lesion"]["divergence"] > 0.3
    assert score.worst_slice in (6, 7)


def test_an_empty_prediction_and_a_single_modality_score_nothing(spec: TaskSpec) -> None:
    empty = scored(spec, sure(0), sure(0), sure(0))
    assert (empty.entropy, empty.disagreement, empty.dice_disagreement, empty.foreground_ml) == (0, 0, 0, 0)
    alone = scored(spec, blob(2, BOX), blob(2, BOX))
    assert (alone.disagreement, alone.dice_disagreement, alone.pairs) == (0, 0, {})
    assert corrected_disagreement(alone, {}) == 0


def test_what_a_pair_always_disagrees_on_is_no_reason(spec: TaskSpec) -> None:
    usual = [scored(spec, blob(2, BOX), blob(2, BOX), blob(2, HALF)) for _ in range(4)]
    odd = scored(spec, blob(2, BOX), blob(2, BOX), sure(0))
    known = usual_divergence([*usual, odd])
    assert corrected_disagreement(usual[0], known) == 0
    assert corrected_disagreement(odd, known) == pytest.approx(
        odd.pairs["ct+pet"]["divergence"] - usual[0].pairs["ct+pet"]["divergence"]
    )
    assert usual_divergence(usual[:2]) == {}  # two cases tell nothing usual
    assert over(torch.ones(4), torch.tensor([True, True, False, False]), 0.5) == pytest.approx(2 / 4)


@pytest.mark.parametrize("kind", ["maml", "early-fusion"])
def test_opinions_are_those_of_the_network(spec: TaskSpec, kind: str) -> None:
    torch.manual_seed(0)
    network = build_network(3, 3, spec.network.model_copy(update={"kind": kind})).eval()
    images = torch.randn(3, 20, 18, 17)
    presence = torch.tensor([True, False, True])
    found = predict_opinions(network, images, presence, (16, 16, 16))
    torch.testing.assert_close(found.fused, predict(network, images, presence, (16, 16, 16)))
    if kind == "early-fusion":
        assert found.experts == {}
        return
    assert sorted(found.experts) == [0, 2]
    alone = torch.tensor([False, False, True])
    # an expert's own opinion does not depend on who else is there
    again = predict_opinions(network, images, alone, (16, 16, 16))
    torch.testing.assert_close(found.experts[2], again.experts[2])
    assert len(found.features) == 3 * spec.network.channels[-1]
    assert not found.features[spec.network.channels[-1] : 2 * spec.network.channels[-1]].any()
    score = score_opinions(found, "case", "v0001", spec, 0.1)
    assert score.present == ("ct", "mr_t1")
    assert list(score.pairs) == ["ct+mr_t1"]
