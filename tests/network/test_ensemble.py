from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from maml_app.cases.case import subsets
from maml_app.network.ensemble import EarlyFusion, MamlEnsemble, SegmentationNetwork, build_network
from maml_app.network.settings import Network
from tests.conftest import NETWORK

PLANS = [
    NETWORK,
    NETWORK.model_copy(update={"head": "light", "shared_decoder": False}),
    NETWORK.model_copy(update={"head": "paper", "shared_decoder": False}),
    NETWORK.model_copy(update={"head": "average"}),
    NETWORK.model_copy(update={"kind": "early-fusion"}),
    NETWORK.model_copy(update={"stem": (2, 2, 1)}),
    NETWORK.model_copy(update={"stem": (2, 2, 1), "head": "average", "shared_decoder": False}),
    NETWORK.model_copy(update={"stem": (2, 2, 1), "kind": "early-fusion"}),
]
IMAGES = torch.randn(2, 3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
ALL = torch.ones(2, 3, dtype=torch.bool)


def network(settings: Network) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(3, 2, settings).eval()


@pytest.mark.parametrize("settings", PLANS)
def test_every_subset_gives_a_finite_answer(settings: Network) -> None:
    net = network(settings)
    for subset in subsets("012"):
        presence = torch.zeros_like(ALL)
        presence[:, [int(index) for index in subset]] = True
        logits = net(IMAGES, presence).fused[0]
        assert logits.shape == (2, 2, 16, 8, 8)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("settings", PLANS)
def test_what_absent_images_hold_does_not_matter(settings: Network) -> None:
    net = network(settings)
    presence = torch.tensor([[True, False, True], [False, True, True]])
    other = IMAGES.clone()
    other[0, 1], other[1, 0] = 99.0, float("nan") if settings.kind == "maml" else -50.0
    assert torch.allclose(net(IMAGES, presence).fused[0], net(other, presence).fused[0], atol=1e-5)


@pytest.mark.parametrize("settings", PLANS)
def test_a_row_does_not_depend_on_its_neighbours(settings: Network) -> None:
    """Rows with different modalities in one batch answer as they do alone."""
    net = network(settings)
    presence = torch.tensor([[True, False, True], [False, True, True]])
    together = net(IMAGES, presence).fused[0]
    for row in range(2):
        alone = net(IMAGES[row : row + 1], presence[row : row + 1]).fused[0]
        assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_absent_experts_are_not_run() -> None:
    net = network(NETWORK)
    assert isinstance(net, MamlEnsemble)
    rows_seen: dict[int, int] = {}

    def count(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor], output: Any) -> None:
            rows_seen[index] = args[0].shape[0]

        return hook

    for index, expert in enumerate(net.experts):
        expert.encoder[0].register_forward_hook(count(index))  # type: ignore[union-attr,index]
    net(IMAGES, torch.tensor([[True, False, True], [False, False, True]]))
    assert rows_seen == {0: 1, 2: 2}


@pytest.mark.parametrize("settings", PLANS)
def test_each_subset_is_what_a_pass_of_its_own_gives(settings: Network) -> None:
    net = network(settings)
    presences = [torch.tensor([[True, False, False]] * 2), torch.tensor([[True, True, False]] * 2), ALL]
    for presence, logits in zip(presences, net.each_subset(IMAGES, presences), strict=True):
        assert torch.allclose(logits, net(IMAGES, presence).fused[0], atol=1e-4)


def test_training_outputs_have_deep_supervision_and_parts() -> None:
    net = network(NETWORK).train()
    parts = torch.tensor([[[True, True, False], [True, False, False]], [[True, False, False], [False, True, True]]])
    outputs = net(IMAGES, ALL, parts)
    for part, said in zip(parts, outputs.parts, strict=True):
        assert torch.allclose(said, net(IMAGES, part).fused[0], atol=1e-4)
    assert sorted(outputs.experts) == [0, 1, 2]
    assert [tuple(level.shape[2:]) for level in outputs.experts[0][1]] == [(16, 8, 8), (8, 4, 8)]
    rival = network(PLANS[-1]).train()
    assert torch.allclose(rival(IMAGES, ALL, parts).fused[0], rival(IMAGES, parts[-1]).fused[0], atol=1e-5)


def test_every_weight_gets_a_gradient() -> None:
    for settings in PLANS:
        net = network(settings).train()
        outputs = net(IMAGES, ALL, ALL[None])
        total = sum(level.square().mean() for level in outputs.fused)
        total = total + sum(level.square().mean() for _, levels in outputs.experts.values() for level in levels)
        total.backward()
        assert all(parameter.grad is not None for parameter in net.parameters()), settings


def test_early_fusion_is_as_wide_as_asked() -> None:
    net = network(PLANS[-1])
    assert isinstance(net, EarlyFusion)
    assert net.unet.heads[0].in_channels == 8


def test_a_shared_decoder_is_one_and_encoders_are_not() -> None:
    def experts_moved_by(net: SegmentationNetwork, part: str) -> list[int]:
        before = net(IMAGES, ALL).experts
        with torch.no_grad():
            for parameter in net.get_submodule(f"experts.0.{part}").parameters():
                parameter.normal_()
        after = net(IMAGES, ALL).experts
        return [index for index in before if not torch.allclose(before[index][1][0], after[index][1][0])]

    own = NETWORK.model_copy(update={"shared_decoder": False})
    assert [experts_moved_by(network(NETWORK), part) for part in ("encoder", "decoder", "heads")] == [
        [0],
        [0, 1, 2],
        [0, 1, 2],
    ]
    assert [experts_moved_by(network(own), part) for part in ("encoder", "decoder", "heads")] == [[0], [0], [0]]


def test_a_stem_tells_voxels_apart() -> None:
    """An object with odd borders, no two axes alike, is learnt to the voxel although a place holds four."""
    truth = torch.zeros(1, 16, 24, 6, dtype=torch.long)
    truth[0, 3:9, 5:8, 1:4], truth[0, 8:13, 5, 3] = 1, 1
    noise = torch.randn(1, 3, 16, 24, 6, generator=torch.Generator().manual_seed(0))
    images = truth[:, None].float() + 0.05 * noise
    net = network(NETWORK.model_copy(update={"stem": (2, 2, 1)})).train()
    assert isinstance(net, MamlEnsemble)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(images, ALL[:1]).fused[0], truth).backward()
        optimiser.step()
    assert torch.equal(net(images, ALL[:1]).fused[0].argmax(dim=1), truth)
    attention = net.attention(images, ALL[:1])
    assert attention.shape == images.shape
    assert torch.allclose(attention.sum(dim=1), torch.ones(()), atol=1e-4)
