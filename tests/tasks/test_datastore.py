"""The datastore adapter."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from maml_app.cases.case import FileRef
from maml_app.cases.spec import TaskSpec
from maml_app.imaging.files import read_image
from maml_app.stores.folder import FolderStore
from maml_app.tasks.datastore import CaseDatastore
from tests.tasks.conftest import refused


def test_the_datastore_lists_cases_and_their_labels(datastore: CaseDatastore, studies: Path) -> None:
    assert datastore.list_images() == [f"phantom_{number:03d}" for number in range(5)]
    assert datastore.get_unlabeled_images() == ["phantom_004"]
    assert len(datastore.datalist()) == len(datastore.get_labeled_images()) == 4
    assert datastore.get_image_uri("phantom_003") == str(studies / "phantom_003" / "pet.nii.gz")
    info = datastore.get_image_info("phantom_003")
    assert (info["missing"], info["images"]["pet"]) == (["ct"], "phantom_003@pet")
    assert datastore.status() == {"total": 5, "completed": 4, "label_tags": {"final": 4}, "incomplete": 1}
    label = datastore.get_label_by_image_id("phantom_000", "final")
    assert label == "phantom_000@final-0000"
    assert datastore.get_label_uri(label, "final") == str(studies / "phantom_000" / "label.nii.gz")
    assert datastore.get_label_info("phantom_000", "final")["version"] == 0
    assert datastore.json()["objects"]["phantom_000"]["labels"]["final"]["info"]["id"] == "final-0000"
    refused(lambda: datastore.get_label_uri("phantom_004", "final"), 404, "expected a label of case 'phantom_004'")
    refused(lambda: datastore.get_image_uri("../x"), 404, "unknown id")


def test_nothing_is_removed_or_overwritten_through_the_datastore(datastore: CaseDatastore) -> None:
    for call in (
        lambda: datastore.remove_image("phantom_000"),
        lambda: datastore.remove_label("phantom_000", "final"),
        lambda: datastore.update_label_info("phantom_000", "final", {}),
        lambda: datastore.add_image("x", "y", {}),
        lambda: datastore.get_dataset_archive(None),
    ):
        refused(call, 405, "Not done")


def test_a_channel_of_a_4d_file_is_handed_out_as_3d(tmp_path: Path, spec: TaskSpec) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "CT", "1": "PET", "2": "T1"}}')
    voxels = np.random.default_rng(0).uniform(0, 5, (6, 5, 4, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2, 3, 4, 1])), tmp_path / "imagesTr" / "a.nii.gz")
    datastore = CaseDatastore(FolderStore(tmp_path, spec), spec, str(tmp_path))
    file = datastore.get_image_uri("a@pet")
    assert np.allclose(read_image(FileRef(Path(file))).voxels, voxels[..., 1])
    assert datastore.get_image_uri("a@pet") == file
