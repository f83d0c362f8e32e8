from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maml_app.cases.spec import TaskSpec, load_task
from maml_app.imaging.check import inspect
from maml_app.imaging.labels import prepare_label
from maml_app.imaging.preprocess import prepare
from maml_app.phantom.scene import make_case, write_cases
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.folder import FolderStore


def test_the_same_seed_gives_the_same_case_and_another_number_another(spec: TaskSpec) -> None:
    one, two, other = make_case(spec, 1, 0, 20), make_case(spec, 1, 0, 20), make_case(spec, 1, 1, 20)
    assert all((one.images[name].voxels == two.images[name].voxels).all() for name in one.images)
    assert (one.label.voxels == two.label.voxels).all()
    assert not np.allclose(one.label.affine, other.label.affine)


def test_a_healthy_case_is_the_same_without_lesions(spec: TaskSpec) -> None:
    ill, healthy = make_case(spec, 1, 0, 20), make_case(spec, 1, 0, 20, healthy=True)
    assert healthy.label.grid.same_as(ill.label.grid)
    assert set(np.unique(ill.label.voxels)) == {0, 1, 2}
    assert set(np.unique(healthy.label.voxels)) == {0, 1}
    assert (healthy.label.voxels[ill.label.voxels != 2] == ill.label.voxels[ill.label.voxels != 2]).all()


def test_modalities_have_their_own_oblique_grids(spec: TaskSpec) -> None:
    case = make_case(spec, 1, 0, 24)
    shapes = {volume.voxels.shape for volume in case.images.values()}
    assert len(shapes) == 3
    axes = case.images["ct"].affine[:3, :3]
    assert (np.abs(axes / np.linalg.norm(axes, axis=0)) > 0.01).sum() > 3


def test_every_lesion_is_seen_somewhere_but_not_everywhere(spec: TaskSpec) -> None:
    """What makes it multi-modal: on average a single modality misses part of the truth that PET, CT and MR share."""
    shown = []
    for number in range(6):
        whole = make_case(spec, 7, number, 24)
        lesion = whole.label.voxels == 2
        ct = whole.images["ct"].voxels  # on the label's grid
        organ = whole.label.voxels == 1
        shown.append(float((ct[lesion] > ct[organ].mean() + 2 * ct[organ].std()).mean()))
    assert 0.1 < np.mean(shown) < 0.8


@pytest.mark.parametrize("name", ["brats_mr", "liver_multiphase_ct", "sarcoma_pet_ct_mr"])
def test_phantoms_of_the_shipped_tasks_are_sound(tmp_path: Path, name: str) -> None:
    spec = load_task(shipped_tasks()[name])
    write_cases(tmp_path, spec, count=4, seed=0, size=24, labelled=3)
    cases = FolderStore(tmp_path, spec).cases()
    assert [case.label is not None for case in cases] == [True, True, True, False]
    assert len(cases[3].images) == len(spec.modalities) - 1
    for case in cases:
        assert inspect(case, spec).problems == ()
    prepared = prepare(cases[0], spec)
    assert set(np.unique(prepare_label(cases[0], spec, prepared.grid))) == {0, *spec.label_values}
