"""The heads against the formulas, written out anew."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from maml_app.network.fusion import AverageHead, JointHead, LightHead, PaperHead

B, M, C, K = 2, 3, 4, 2


def features(seed: int = 0) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {index: torch.randn(B, C, 6, 5, 4, generator=generator) for index in range(M)}


def transcribed(head: PaperHead, inputs: dict[int, torch.Tensor]) -> torch.Tensor:
    """arXiv 2107.09842, written with functionals and the head's parameters by name."""
    p = dict(head.named_parameters())
    fused = F.conv3d(torch.cat(list(inputs.values()), 1), p["fuse.weight"], p["fuse.bias"], padding=1)
    total = torch.zeros_like(inputs[0])
    for i, f in inputs.items():
        x = F.conv3d(torch.cat([f, fused], 1), p[f"gates.{i}.0.weight"], p[f"gates.{i}.0.bias"], padding=1)
        mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), unbiased=False, keepdim=True)
        x = (x - mean) / torch.sqrt(var + 1e-5)
        x = x * p[f"gates.{i}.1.weight"].view(1, -1, 1, 1, 1) + p[f"gates.{i}.1.bias"].view(1, -1, 1, 1, 1)
        x = torch.where(x > 0, x, 0.01 * x)
        a = 1 / (1 + torch.exp(-F.conv3d(x, p[f"gates.{i}.3.weight"], p[f"gates.{i}.3.bias"], padding=1)))
        total = total + a * f
    return F.conv3d(total, p["out.weight"], p["out.bias"])


def test_paper_head_is_the_papers_equation() -> None:
    torch.manual_seed(1)
    head = PaperHead(M, C, K)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    inputs = features()
    logits, attention = head(inputs, torch.ones(B, M, dtype=torch.bool))
    assert torch.allclose(logits, transcribed(head, inputs), atol=1e-4)
    assert [weights.shape for weights in attention.values()] == [(B, C, 6, 5, 4)] * M


@pytest.mark.parametrize("kind", [PaperHead, LightHead, JointHead])
def test_absent_modalities_get_no_attention(kind: type[PaperHead | LightHead]) -> None:
    head = kind(M, C, K)
    presence = torch.tensor([[True, False, True], [False, True, False]])
    inputs = {i: f * presence[:, i, None, None, None, None] for i, f in features().items()}
    logits, attention = head(inputs, presence)
    assert torch.isfinite(logits).all()
    assert not attention[1][0].any()
    assert not attention[0][1].any()
    assert not attention[2][1].any()


@pytest.mark.parametrize("kind", [PaperHead, LightHead, JointHead, AverageHead])
@pytest.mark.parametrize("there", [[0], [1], [0, 2], [1, 2]])
def test_what_is_absent_everywhere_may_be_left_out(
    kind: type[PaperHead | LightHead | AverageHead], there: list[int]
) -> None:
    torch.manual_seed(1)
    head = kind(M, C, C)
    presence = torch.zeros(B, M, dtype=torch.bool)
    presence[:, there] = True
    zeroed = {i: f * (i in there) for i, f in features().items()}
    logits, attention = head({i: f for i, f in zeroed.items() if i in there}, presence)
    whole, weights = head(zeroed, presence)
    assert torch.allclose(logits, whole, atol=1e-5)
    assert all(torch.allclose(attention[i], weights[i], atol=1e-5) for i in there)


def test_light_attention_sums_to_one_over_those_present() -> None:
    head = LightHead(M, C, K)
    presence = torch.tensor([[True, True, True], [True, False, True]])
    attention = torch.stack(list(head(features(), presence)[1].values()))
    assert torch.allclose(attention.sum(dim=0), torch.ones(B, C, 6, 5, 4), atol=1e-5)


def test_a_single_modality_passes_the_light_head_unweighted() -> None:
    head = LightHead(M, C, K)
    presence = torch.tensor([[False, True, False]] * B)
    inputs = {i: f * presence[:, i, None, None, None, None] for i, f in features().items()}
    assert torch.allclose(head(inputs, presence)[0], head.out(inputs[1]), atol=1e-5)


def test_joint_head_is_the_light_head_and_what_features_show_together() -> None:
    torch.manual_seed(1)
    head, light = JointHead(M, C, K), LightHead(M, C, K)
    light.load_state_dict({name: value for name, value in head.state_dict().items() if "joint" not in name})
    inputs, presence = features(), torch.ones(B, M, dtype=torch.bool)
    p = dict(head.named_parameters())
    small = torch.cat([F.avg_pool3d(F.pad(f, (0, 0, 0, 1, 0, 0), mode="replicate"), 2) for f in inputs.values()], 1)
    x = F.conv3d(small, p["fuse.weight"], p["fuse.bias"], padding=1)
    x = F.leaky_relu(F.instance_norm(x, weight=p["joint.0.weight"], bias=p["joint.0.bias"]), 0.01)
    together = F.conv3d(x, p["joint.2.weight"], p["joint.2.bias"], padding=1)
    together = F.interpolate(together, size=inputs[0].shape[2:], mode="trilinear")
    assert torch.allclose(head(inputs, presence)[0], light(inputs, presence)[0] + together, atol=1e-4)


def test_the_average_is_of_the_probabilities_of_those_present() -> None:
    head = AverageHead(M, C, K)
    logits = [torch.tensor([0.0, value]).view(1, 2, 1, 1, 1) for value in (0.0, 2.0, -5.0)]
    fused, _ = head(dict(enumerate(logits[:2])), torch.tensor([[True, True, False]]))
    expected = (0.5 + 1 / (1 + torch.exp(torch.tensor(-2.0)))) / 2
    assert float(torch.softmax(fused, 1)[0, 1]) == pytest.approx(float(expected), abs=1e-5)
