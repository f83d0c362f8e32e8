"""A network that runs without this program."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maml_app.errors import ModelError
from maml_app.network import export
from maml_app.network.ensemble import SegmentationNetwork, build_network
from maml_app.network.export import export_torchscript
from maml_app.network.settings import Network

PLAN = {"shared_decoder": False, "channels": (4, 6), "strides": ((1, 1, 1), (2, 2, 2))}
ELSEWHERE = """
import sys, numpy, torch
assert not [name for name in sys.modules if name.startswith(("maml_app", "monai"))]
network = torch.jit.load("model.ts")
stored = numpy.load("input.npz")
images = torch.from_numpy(stored["images"])
numpy.save("answers.npy", numpy.stack([network(images, torch.from_numpy(row)) for row in stored["presences"]]))
"""


def network(kind: str, head: str, **more: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    result = build_network(3, 3, Network.model_validate({**PLAN, "kind": kind, "head": head, **more})).eval()
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)  # nothing starts as nothing
    return result


@pytest.mark.parametrize(
    ("kind", "head", "more"),
    [
        ("maml", "light", {}),
        ("maml", "joint", {"shared_decoder": True}),
        ("maml", "paper", {}),
        ("maml", "average", {}),
        ("maml", "joint", {"stem": (2, 2, 1)}),
        ("early-fusion", "light", {}),
    ],
)
def test_it_gives_the_same_mask_where_this_program_is_not(
    tmp_path: Path, kind: str, head: str, more: dict[str, Any]
) -> None:
    ours = network(kind, head, **more)
    export_torchscript(tmp_path / "model.ts", ours, 3, (8, 8, 12))
    images = torch.randn(1, 3, 8, 8, 12)
    presences = torch.tensor(list(product((True, False), repeat=3))[:3])[:, None]
    np.savez(tmp_path / "input.npz", images=images.numpy(), presences=presences.numpy())
    subprocess.run([sys.executable, "-I", "-c", ELSEWHERE], check=True, cwd=tmp_path)
    for there, presence in zip(np.load(tmp_path / "answers.npy"), presences, strict=True):
        with torch.inference_mode():
            here = torch.softmax(ours(images, presence).fused[0], dim=1).numpy()
        np.testing.assert_array_equal(there.argmax(1), here.argmax(1))
        np.testing.assert_allclose(there, here, atol=1e-5)


def test_an_export_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differs from the network by"):
        export_torchscript(tmp_path / "model.ts", network("maml", "light"), 3, (8, 8, 8))
