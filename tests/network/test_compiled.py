"""OpenVINO answers as torch does, under every set of modalities."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.network.compiled import Compiled
from maml_app.network.ensemble import build_network
from maml_app.network.window import Answering, predict_opinions
from tests.conftest import NETWORK

PATCH = (16, 16, 8)


def some_network(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return build_network(3, 4, NETWORK.model_copy(update={"kind": kind, **more})).eval()


@pytest.mark.parametrize(("kind", "stem"), [("maml", (1, 1, 1)), ("maml", (2, 2, 1)), ("early-fusion", (1, 1, 1))])
def test_the_graphs_say_what_the_network_says(kind: str, stem: tuple[int, int, int]) -> None:
    network = some_network(kind, stem=stem)
    compiled = Compiled(network, PATCH)
    window = torch.randn(1, 3, *PATCH)
    for chosen in ((True, True, True), (True, False, False), (False, True, True)):
        presence = torch.tensor(chosen)
        answer = compiled.answer(presence, wait=True)
        assert answer is not None
        with torch.inference_mode():
            expected = Answering(network, presence)(window)
        for found, wanted in zip(answer(window), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


def test_a_case_gets_the_same_mask(spec: TaskSpec) -> None:
    network = some_network("maml")
    images, presence = torch.randn(3, 30, 21, 17), torch.tensor([True, False, True])
    plain = predict_opinions(network, images, presence, PATCH)
    for half, apart in ((False, 1e-4), (True, 0.05)):
        answer = Compiled(network, PATCH, half).answer(presence, wait=True)
        assert answer is not None
        fast = predict_opinions(network, images, presence, PATCH, answer)
        assert sorted(fast.experts) == [0, 2]
        for found, wanted in ((fast.fused, plain.fused), (fast.experts[2], plain.experts[2])):
            torch.testing.assert_close(found, wanted, atol=apart, rtol=0)
        agreeing = (fast.fused.argmax(dim=0) == plain.fused.argmax(dim=0)).float().mean()
        assert agreeing > (0.95 if half else 0.999)  # weights that mean nothing: many voxels are near a tie


def test_torch_answers_until_a_graph_is_there_and_where_none_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, made = Compiled(some_network("maml"), PATCH), threading.Event()
    make = compiled._make

    def slow(presence: torch.Tensor) -> Any:
        made.wait(60)
        return make(presence)

    monkeypatch.setattr(compiled, "_make", slow)
    everything = torch.ones(3, dtype=torch.bool)
    assert compiled.answer(everything) is None
    made.set()
    assert compiled.answer(everything, wait=True) is not None
    assert compiled.answer(everything) is not None  # from then on at once

    def refuses(presence: torch.Tensor) -> Any:
        raise RuntimeError("an operation that is not supported")

    monkeypatch.setattr(compiled, "_make", refuses)
    assert compiled.answer(torch.tensor([True, False, False]), wait=True) is None
    assert compiled.answer(torch.tensor([True, False, False])) is None
