from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maml_app.cases.spec import TaskSpec
from maml_app.learning.dataset import PatchSource, Sample, _cut, build_samples, draw_subset
from maml_app.stores.folder import FolderStore


@pytest.fixture
def samples(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> list[Sample]:
    return build_samples([case for case in store.cases() if case.label], spec, tmp_path / "prepared")


def test_batches_have_the_promised_shapes_and_mark_what_is_missing(samples: list[Sample], spec: TaskSpec) -> None:
    source = PatchSource(samples, spec, seed=0)
    seen = set()
    for step in range(4):
        batch = source.batch(step)
        assert batch.images.shape == (2, 3, 16, 16, 16)
        assert batch.label.shape == (2, 16, 16, 16)
        assert batch.label.dtype == torch.int64
        assert not batch.images[~batch.presence].any()
        assert (batch.subset <= batch.presence).all()
        assert batch.subset.any(dim=1).all()
        seen |= {tuple(row.tolist()) for row in batch.presence}
    assert seen == {(True, True, True), (False, True, True)}


def test_a_batch_depends_on_seed_and_step_alone(samples: list[Sample], spec: TaskSpec) -> None:
    one, two = PatchSource(samples, spec, 1), PatchSource(samples, spec, 1)
    two.batch(0)
    assert torch.equal(one.batch(3).images, two.batch(3).images)
    assert not torch.equal(one.batch(3).images, one.batch(4).images)
    assert not torch.equal(one.batch(3).images, PatchSource(samples, spec, 2).batch(3).images)


def test_most_patches_hold_foreground(samples: list[Sample], spec: TaskSpec) -> None:
    source = PatchSource(samples, spec, 0)
    found = [bool((label > 0).any()) for step in range(10) for label in source.batch(step).label]
    assert np.mean(found) > 0.6


def test_cutting_past_the_border_pads_each_channel_with_its_lowest() -> None:
    voxels = np.stack([np.arange(27).reshape(3, 3, 3) + 5, np.full((3, 3, 3), 2)])
    cut = _cut(voxels, np.array([-1, 0, 2]), np.array([3, 3, 3]))
    assert cut.shape == (2, 3, 3, 3)
    assert (cut[0, 0] == 7).all()  # the lowest of what was cut
    assert (cut[1] == 2).all()
    assert (_cut(voxels, np.array([-1, 0, 2]), np.array([3, 3, 3]), fill=0)[:, 0] == 0).all()
    assert (cut[0, 1:, :, 0] == voxels[0, :2, :, 2]).all()


def test_subsets_are_drawn_from_all_that_is_possible() -> None:
    rng = np.random.default_rng(0)
    presence = torch.tensor([True, False, True])
    drawn = {tuple(draw_subset(presence, rng).tolist()) for _ in range(60)}
    assert drawn == {(True, False, False), (False, False, True), (True, False, True)}
