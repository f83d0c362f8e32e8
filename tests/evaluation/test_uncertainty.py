from __future__ import annotations

import pytest
import torch

from maml_app.evaluation.uncertainty import foreground_entropy


def test_entropy_of_known_probabilities() -> None:
    sure = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 3, 3)
    torn = torch.full((2, 3, 3, 3), 0.5)
    background = torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, 3, 3, 3)
    assert foreground_entropy(sure) == pytest.approx(0, abs=1e-5)
    assert foreground_entropy(torn) == pytest.approx(1, abs=1e-5)
    assert foreground_entropy(background) == 0
    # a large sure background does not dilute a torn lesion
    assert foreground_entropy(torch.cat([background, background, torn], dim=1)) == pytest.approx(1, abs=1e-5)
