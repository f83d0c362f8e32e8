"""Real studies in a real Orthanc, from the search for their series to a mask on each of them."""

from __future__ import annotations

from pathlib import Path

import torch

from maml_app.imaging.files import read_grid, read_label
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.labels import read_case_label
from maml_app.network.settings import Network
from maml_app.settings import Settings
from maml_app.stores.choice import choose_task
from maml_app.stores.imports import import_labels
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.predict import Model, segment
from tests.conftest import real
from tests.harness.orthanc import Orthanc
from tests.integration.conftest import opened


def test_real_studies_and_their_contours(orthanc: Orthanc, tmp_path: Path) -> None:
    assert orthanc.add_folder(real("sts_dicom")) == 380
    task = choose_task(orthanc.dicomweb, settings=Settings(cache=str(tmp_path / "cache")))
    assert task.name == "sarcoma_pet_ct_mr"
    store = opened(orthanc.dicomweb, task, tmp_path / "cache")
    cases = {case.patient: case for case in store.cases()}
    assert sorted(cases) == ["STS_002", "STS_008", "STS_025"]
    assert all(set(case.images) == {"ct", "pet", "mr_t1"} for case in cases.values())
    found = list(import_labels(store, real("sts_dicom_rtstruct"), {"GTV*": "tumour"}))
    assert [one.reason.split(";")[0] for one in found] == ["RTSTRUCT on mr_t1"] * 3
    label = read_case_label(store.case(cases["STS_002"].id), task)
    truth = read_label(real("sts_native") / "STS_002" / "label_mr_t1.nii.gz")
    assert label.grid.same_as(truth.grid)
    assert 2 * (label.voxels & truth.voxels).sum() / (label.voxels.sum() + truth.voxels.sum()) >= 0.97
    # a small model, for every series of a case the same finding on its own grid
    training = {"steps": 40, "patch": (16, 16, 16), "validation": 0.0, "learning_rate": 0.03, "each_alone": False}
    small = task.model_copy(
        update={
            "preprocess": task.preprocess.model_copy(update={"spacing_mm": (6.0, 6.0, 6.0)}),
            "network": Network(channels=(4, 8), strides=((1, 1, 1), (2, 2, 2))),
            "training": task.training.model_copy(update=training),
        }
    )
    cpu = torch.device("cpu")
    trained = train(small, store.cases(), Recipe(devices=(cpu,)))
    model = Model("v0001", trained.network, trained.checkpoint, cpu)
    case = store.case(cases["STS_002"].id)
    masks = {name: segment(model, *store.resolve(case.series[name]), small) for name in case.images}
    on_ct = {name: resample_label(one.label, one.grid, masks["ct"].grid).astype(bool) for name, one in masks.items()}
    assert on_ct["ct"].any()
    for name, mask in on_ct.items():
        assert masks[name].grid.same_as(read_grid(case.images[name]))
        assert 2 * (mask & on_ct["ct"]).sum() / (mask.sum() + on_ct["ct"].sum()) > 0.8
