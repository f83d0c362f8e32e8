from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.imaging.files import read_image, write_image
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.imaging.volume import Volume
from maml_app.stores.folder import FolderStore
from maml_app.training import dataset
from maml_app.training.dataset import PatchSource, Sample, _cut, build_samples, draw_parts, drop_old, load_sample


@pytest.fixture
def samples(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> list[Sample]:
    built = build_samples([case for case in store.cases() if case.label], spec, tmp_path / "prepared")
    return [load_sample(case_id, folder) for case_id, folder in built.items()]


def test_batches_have_the_promised_shapes_and_mark_what_is_missing(samples: list[Sample], spec: TaskSpec) -> None:
    source = PatchSource(samples, spec, seed=0)
    seen = set()
    for step in range(4):
        batch = source.batch(step)
        assert batch.images.shape == (2, 3, 16, 16, 16)
        assert batch.label.shape == (2, 16, 16, 16)
        assert batch.label.dtype == torch.int64
        assert not batch.images[~batch.presence].any()
        assert batch.parts.shape == (4, 2, 3)
        assert (batch.parts <= batch.presence).all()
        assert batch.parts.any(dim=2).all()
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


def test_parts_are_drawn_from_all_that_is_possible() -> None:
    rng = np.random.default_rng(0)
    presence = torch.tensor([True, False, True])
    drawn = {tuple(row) for _ in range(60) for row in draw_parts(presence, rng).tolist()}
    assert drawn == {(True, False, False), (False, False, True), (True, False, True)}
    each = [draw_parts(torch.tensor([True, True, True]), rng, each_alone=True) for _ in range(60)]
    assert all(torch.equal(parts[:3], torch.eye(3, dtype=torch.bool)) for parts in each)
    assert {int(parts[3].sum()) for parts in each} == {1, 2}  # all of them together learn anyway
    for _ in range(20):
        parts = draw_parts(presence, rng, each_alone=True)
        assert (parts <= presence).all()
        assert parts.any(dim=1).all()
        assert torch.equal(draw_parts(presence, rng, 0.0, each_alone=True)[3], presence)


def test_prepared_cases_are_used_again_until_a_file_changes(
    store: FolderStore, spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = [case for case in store.cases() if case.label]
    prepared: list[str] = []
    whole = prepare

    def counted(case: Case, task: TaskSpec) -> Prepared:
        prepared.append(case.id)
        return whole(case, task)

    monkeypatch.setattr(dataset, "prepare", counted)
    first = build_samples(labelled, spec, tmp_path / "prepared")
    assert prepared == [case.id for case in labelled]
    assert build_samples(labelled, spec, tmp_path / "prepared") == first
    assert len(prepared) == 4
    image = labelled[1].images["mr_t1"].path
    volume = read_image(labelled[1].images["mr_t1"])
    write_image(image, Volume(volume.voxels + 1, volume.affine))
    second = build_samples(labelled, spec, tmp_path / "prepared")
    assert prepared[4:] == [labelled[1].id]
    assert {case_id for case_id in first if first[case_id] != second[case_id]} == {labelled[1].id}
    # another spacing is another preparation
    coarse = spec.model_copy(update={"preprocess": spec.preprocess.model_copy(update={"spacing_mm": (9.0, 9.0, 9.0)})})
    assert not set(build_samples(labelled, coarse, tmp_path / "prepared").values()) & set(second.values())


def test_prepared_cases_stay_below_their_limit_and_litter_goes(
    store: FolderStore, spec: TaskSpec, tmp_path: Path
) -> None:
    labelled = [case for case in store.cases() if case.label]
    folder = tmp_path / "prepared"
    first = build_samples(labelled[:2], spec, folder)
    for path in first.values():
        os.utime(path, (0, 0))
    (folder / ".work-forsaken").mkdir()
    second = build_samples(labelled[2:], spec, folder)
    drop_old(folder, set(second.values()), limit_gb=1e-6)
    assert set(folder.iterdir()) == set(second.values())


def test_what_another_training_has_just_prepared_stays(store: FolderStore, spec: TaskSpec, tmp_path: Path) -> None:
    labelled = [case for case in store.cases() if case.label]
    folder = tmp_path / "prepared"
    old, theirs, ours = (build_samples(cases, spec, folder) for cases in (labelled[:1], labelled[1:3], labelled[3:]))
    for path in old.values():
        os.utime(path, (0, 0))
    drop_old(folder, set(ours.values()), limit_gb=1e-6)
    assert not any(path.exists() for path in old.values())
    for case_id, path in theirs.items():
        assert load_sample(case_id, path).label is not None


def test_a_weight_draws_a_case_more_often(samples: list[Sample], spec: TaskSpec) -> None:
    source = PatchSource(samples, spec, 0, weights={samples[0].case_id: 3})
    assert [one.case_id for one in source.samples].count(samples[0].case_id) == 3
    assert source.steps_an_epoch == 3


def test_a_slot_is_the_same_alone_and_in_its_batch(samples: list[Sample], spec: TaskSpec) -> None:
    source = PatchSource(samples, spec, 4)
    whole, second = source.batch(5), source.batch(5, slots=[1])
    assert torch.equal(whole.images[1:], second.images)
    assert torch.equal(whole.parts[:, 1:], second.parts)
    assert source.batch(5, patch=(8, 16, 8)).images.shape == (2, 3, 8, 16, 8)
