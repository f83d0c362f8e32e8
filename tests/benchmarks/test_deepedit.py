"""The rival after DeepEdit: its clicks lie where they were made, and it learns to answer them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import deepedit
from benchmarks.deepedit import Click, DeepEdit, DeepEditAnnotator, guidance, train_deepedit
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.correct import Marked, Prompt
from maml_app.imaging.files import read_grid
from maml_app.imaging.volume import Volume
from maml_app.network.ensemble import build_network
from maml_app.stores.folder import FolderStore
from maml_app.training.recipe import Recipe
from tests.builders import brain, lesion, shipped

CPU = Recipe(devices=(torch.device("cpu"),))


def test_guidance_falls_off_in_mm_in_the_channel_of_its_class() -> None:
    clicks = [Click(np.array([2, 3, 1]), 0), Click(np.array([5, 5, 5]), 2), Click(np.array([6, 5, 5]), 2)]
    channels = guidance(clicks, (9, 8, 7), (2.0, 4.0, 5.0), 3).numpy()
    assert channels.shape == (3, 9, 8, 7)
    assert channels[0, 2, 3, 1] == channels[2, 5, 5, 5] == channels[2, 6, 5, 5] == 1
    assert not channels[1].any()
    assert channels[0, 4, 3, 1] == pytest.approx(1 - 4 / 20)
    assert channels[0, 2, 4, 2] == pytest.approx(1 - np.hypot(4, 5) / 20)
    assert channels[2, 7, 5, 5] == pytest.approx(1 - 2 / 20)  # from the nearer of two


def test_a_click_is_shown_where_it_was_made_on_an_oblique_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = shipped("brats_mr")
    brain(tmp_path / "one", lesion())
    [case] = FolderStore(tmp_path, spec).cases()

    def near_clicks(network: object, images: torch.Tensor, presence: torch.Tensor, patch: object) -> torch.Tensor:
        assert presence.tolist() == [True] * (4 + spec.classes)
        clicked = images[4:].clone()
        clicked[0] = 0.7  # what no click is near is background
        return clicked / clicked.sum(dim=0)

    monkeypatch.setattr(deepedit, "predict", near_clicks)
    network = build_network(4 + spec.classes, spec.classes, spec.network)
    rival = DeepEdit(spec, network, spec.training.patch, 0.0)
    grid = read_grid(case.grids["t1"])
    place = np.array([8, 3, 5])
    prompt = Prompt((grid.affine @ (*place, 1.0))[None, :3], True)
    empty = Volume(np.zeros(grid.shape, np.uint8), grid.affine)
    corrected = rival.correct(case, empty, Marked(2, [prompt]))
    found = np.argwhere(corrected.label.voxels == 2)
    assert len(found)
    assert np.abs(found.mean(axis=0) - place).max() < 0.5
    assert set(np.unique(corrected.label.voxels)) == {0, 2}
    assert corrected.gained_ml == pytest.approx(len(found) * grid.voxel_ml)
    assert corrected.lost_ml == 0


def test_it_is_trained_from_its_errors_and_an_annotator_plays_it(studies: Path, spec: TaskSpec) -> None:
    cases = [case for case in FolderStore(studies, spec).cases() if case.label]
    one, two = (train_deepedit(spec, cases, 3, CPU) for _ in range(2))
    for mine, other in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(mine, other)
    sessions = DeepEditAnnotator(one, None, rounds=2).play_case(cases[0])
    assert [session.label for session in sessions] == list(spec.label_values.values())
    assert all(len(session.dice) == 3 for session in sessions)
