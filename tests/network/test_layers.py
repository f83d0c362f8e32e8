"""The quicker layers say what torch's own say, and keep the layout; graphs for elsewhere hold torch's own."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from benchmarks.speed import torchs_own
from maml_app.network.ensemble import build_network
from maml_app.network.layers import LAYOUT, Conv, InstanceNorm
from maml_app.network.settings import Network
from tests.conftest import NETWORK


@pytest.mark.parametrize("change", [{}, {"kind": "early-fusion"}, {"stem": (2, 2, 2)}, {"head": "paper"}])
def test_masks_are_those_of_torchs_own_layers_and_training_is_theirs(change: dict[str, object]) -> None:
    torch.manual_seed(0)
    settings = Network.model_validate({**NETWORK.model_dump(), "channels": (8, 16, 64), **change})
    network = build_network(3, 3, settings)
    assert {type(module) for module in network.modules()} >= {Conv, InstanceNorm}
    images = torch.randn(1, 3, 32, 32, 16)
    presence = torch.ones(1, 3, dtype=torch.bool)
    plain = torchs_own(network)
    with torch.inference_mode():
        ours, theirs = (torch.softmax(each(images, presence).fused[0], dim=1) for each in (network, plain))
    assert not torch.equal(ours, theirs)  # they are others
    assert (ours - theirs).abs().max() < 1e-4
    assert (ours.argmax(dim=1) != theirs.argmax(dim=1)).float().mean() < 1e-3
    assert torch.equal(network(images, presence).fused[0], plain(images, presence).fused[0])


def test_the_layout_is_kept_and_small_convolutions_are_those_of_onednn() -> None:
    features = torch.randn(1, 64, 8, 8, 8).contiguous(memory_format=LAYOUT)
    conv, norm = Conv(64, 64, 3, padding=1).to(memory_format=LAYOUT), InstanceNorm(64, affine=True)  # type: ignore[call-overload]
    with torch.profiler.profile() as profile, torch.inference_mode():
        found = norm(conv(features))
    assert found.is_contiguous(memory_format=LAYOUT)
    names = {event.name for event in profile.events()}
    assert "aten::mkldnn_convolution" in names
    assert not names & {"aten::slow_conv3d_forward", "aten::clone"}


def test_a_graph_for_elsewhere_holds_torchs_own_layers() -> None:
    layers = nn.Sequential(Conv(8, 8, 3, padding=1), InstanceNorm(8, affine=True)).eval()
    warnings.simplefilter("ignore")  # of shapes that become constants
    graph = str(torch.jit.trace(layers, torch.randn(1, 8, 8, 8, 8)).inlined_graph)
    assert "aten::instance_norm" in graph
    assert "mkldnn" not in graph
    assert "group_norm" not in graph
