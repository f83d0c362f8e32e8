from __future__ import annotations

import math

import pytest
import torch
from monai.losses.dice import DiceCELoss

from maml_app.network.ensemble import Outputs
from maml_app.network.losses import MutualLearningLoss, foreground_kl
from maml_app.network.settings import Loss

WEIGHTS = Loss()


def certain(truth: torch.Tensor, size: float = 20.0) -> torch.Tensor:
    """Logits that are sure of the truth (B, X, Y, Z) of two classes."""
    return torch.stack([(truth == value) * size for value in (0, 1)], dim=1).float()


TRUTH = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
TRUTH[:, 2:5, 2:6, 3:7] = 1
ROWS = torch.tensor([True])


def test_kl_has_its_analytic_value_over_the_foreground() -> None:
    # teacher (1/2, 1/2) against student (1/4, 3/4): ln 2 - (ln 3) / 2 at every foreground voxel
    student = torch.zeros(1, 2, 8, 8, 8)
    student[:, 1] = math.log(3)
    teacher = torch.zeros(1, 2, 8, 8, 8)
    assert float(foreground_kl(student, teacher, TRUTH)) == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-5)
    # background voxels alone do not count
    mixed = torch.where((TRUTH > 0)[:, None], teacher, student)
    assert float(foreground_kl(mixed, teacher, TRUTH)) == pytest.approx(0, abs=1e-6)
    assert float(foreground_kl(student, teacher, TRUTH * 0)) == 0


def test_agreement_costs_nothing_and_a_perfect_answer_almost_nothing() -> None:
    logits = certain(TRUTH)
    outputs = Outputs([logits], [logits], {0: (ROWS, [logits])})
    terms = MutualLearningLoss(WEIGHTS)(outputs, TRUTH)
    assert set(terms) == {*Loss.model_fields, "total"} - {"temperature", "deep"}
    assert float(terms["total"]) < 1e-3
    assert float(terms["mutual"]) == pytest.approx(0, abs=1e-6)


def test_a_wrong_answer_costs() -> None:
    wrong = certain(1 - TRUTH)
    terms = MutualLearningLoss(WEIGHTS)(Outputs([wrong]), TRUTH)
    assert float(terms["fused"]) > 10
    assert set(terms) == {"fused", "total"}


@pytest.mark.parametrize("term", ["experts", "mutual", "subset", "consistency"])
def test_a_weight_of_zero_switches_a_term_off(term: str) -> None:
    logits = certain(TRUTH, 1.0)
    outputs = Outputs([-logits], [logits], {0: (ROWS, [-logits])})
    full = MutualLearningLoss(WEIGHTS)(outputs, TRUTH)
    less = MutualLearningLoss(WEIGHTS.model_copy(update={term: 0.0}))(outputs, TRUTH)
    assert term not in less
    assert float(less["total"]) == pytest.approx(float(full["total"] - full[term]), rel=1e-5)


def test_experts_learn_from_the_fused_prediction_but_not_the_other_way() -> None:
    fused = certain(TRUTH, 3.0).requires_grad_()
    expert = torch.zeros_like(fused).requires_grad_()
    part = torch.zeros_like(fused).requires_grad_()
    outputs = Outputs([fused], [part], {0: (ROWS, [expert])})
    terms = MutualLearningLoss(WEIGHTS.model_copy(update={"fused": 0.0, "experts": 0.0, "subset": 0.0}))(outputs, TRUTH)
    terms["total"].backward()
    assert expert.grad is not None
    assert expert.grad.abs().sum() > 0
    assert part.grad is not None
    assert part.grad.abs().sum() > 0
    assert fused.grad is None or float(fused.grad.abs().sum()) == 0


def test_experts_are_scored_on_their_own_rows() -> None:
    truth = torch.cat([TRUTH, 1 - TRUTH])
    right_for_second = certain(1 - TRUTH)
    outputs = Outputs([certain(truth)], [], {1: (torch.tensor([False, True]), [right_for_second])})
    assert float(MutualLearningLoss(WEIGHTS)(outputs, truth)["experts"]) < 1e-3


def test_deep_levels_weigh_half_of_the_finer_one() -> None:
    right, small = certain(TRUTH), certain(TRUTH[:, ::2, ::2, ::2])
    wrong_small = MutualLearningLoss(WEIGHTS)(Outputs([right, -small]), TRUTH)["fused"]
    wrong_large = MutualLearningLoss(WEIGHTS)(Outputs([-right, small]), TRUTH)["fused"]
    assert float(wrong_large / wrong_small) == pytest.approx(2, rel=0.25)
    finest_only = MutualLearningLoss(WEIGHTS.model_copy(update={"deep": 0.0}))
    assert float(finest_only(Outputs([right, -small]), TRUTH)["fused"]) < 1e-3
    assert float(finest_only(Outputs([-right, small]), TRUTH)["fused"]) > float(wrong_large)


def test_temperature_softens_and_keeps_the_size_of_the_gradient() -> None:
    student, teacher = certain(TRUTH, 1.0), certain(TRUTH, 2.0)
    # of two classes with logits 0 and z / T
    t, s = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(-0.5))
    expected = 4 * (t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s)))
    assert float(foreground_kl(student, teacher, TRUTH, 2.0)) == pytest.approx(expected, abs=1e-5)


def test_segmentation_is_monais_dice_and_cross_entropy_where_nothing_is_nested() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, 6, generator=generator)
    truth = torch.randint(0, 4, (2, 6, 6, 6), generator=generator)
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)(logits, truth[:, None])
    ours = MutualLearningLoss(WEIGHTS)(Outputs([logits]), truth)["fused"]
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_nested_regions_are_trained_as_regions() -> None:
    """A mistake within a region costs no Dice of that region, only of those that tell its parts apart."""
    truth = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    truth[:, 2:6, 2:6, 2:6] = 2
    truth[:, 3:5, 3:5, 3:5] = 3
    right = torch.nn.functional.one_hot(truth, 4).permute(0, 4, 1, 2, 3).float() * 20
    swapped = right[:, [0, 1, 3, 2]]  # 2 and 3 confused
    nested = MutualLearningLoss(WEIGHTS, [(1, 2, 3), (1, 3), (3,)])
    whole = MutualLearningLoss(WEIGHTS, [(1, 2, 3)])
    entropy = float(torch.nn.functional.cross_entropy(swapped, truth))
    assert float(whole(Outputs([swapped]), truth)["fused"]) == pytest.approx(entropy, abs=1e-4)
    assert float(nested(Outputs([swapped]), truth)["fused"]) > entropy + 0.5
    assert float(nested(Outputs([right]), truth)["fused"]) < 1e-3


@pytest.mark.parametrize("regions", [None, [(1,)]])
def test_what_is_unknown_counts_for_nothing(regions: list[tuple[int, ...]] | None) -> None:
    torch.manual_seed(0)
    unknown = TRUTH.clone()
    unknown[:, :4] = -1
    criterion = MutualLearningLoss(Loss(experts=0.0, mutual=0.0, subset=0.0, consistency=0.0), regions)
    logits = torch.randn(1, 2, 8, 8, 8, requires_grad=True)
    criterion(Outputs([logits]), unknown)["total"].backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :4].any()
    assert logits.grad[:, :, 4:].any()
    # what is known counts as it does by itself
    whole = criterion(Outputs([logits]), unknown)["total"]
    part = criterion(Outputs([logits[:, :, 4:]]), TRUTH[:, 4:])["total"]
    assert float(whole) == pytest.approx(float(part), rel=1e-5)
    nothing = criterion(Outputs([logits]), torch.full_like(TRUTH, -1))["total"]
    assert math.isfinite(float(nothing))
