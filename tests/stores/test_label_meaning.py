"""What the labels of whole data sets mean, and which are trained on: by dataset.json, BIDS, ids, or all values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maml_app.errors import StudiesError
from maml_app.imaging.check import inspect, usable
from maml_app.imaging.volume import Array
from maml_app.stores.choice import choose_task
from maml_app.stores.folder import FolderStore
from maml_app.stores.layouts import read_cases, read_studies
from tests.builders import brain, lesion, save, shipped, tissue, touch

BRATS = shipped("brats_mr")
VOLUMES = "non_enhancing 1.7 ml, edema 0.8 ml, enhancing 0.6 ml"  # 12, 6 and 4 voxels of 4 x 5 x 7 mm


def told(root: Path) -> dict[str, str]:
    """Case id -> its label in words, or why it is refused."""
    findings = [inspect(case, BRATS) for case in FolderStore(root, BRATS).cases()]
    return {one.case.id: one.refused or one.label.removeprefix("final-0000: ") for one in findings}


def numbered(*table: int) -> Array:
    return np.array(table, np.uint8)[lesion()]


def nnunet(root: Path, labels: dict[str, object] | None, *maps: Array, channels: str = "channel_names") -> None:
    content = {channels: {"0": "T1", "1": "FLAIR"}, "file_ending": ".nii.gz", **({"labels": labels} if labels else {})}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    for index, label in enumerate(maps):
        for channel in range(2):
            save(root / f"imagesTr/X{index}_{channel:04d}.nii.gz", tissue(300 + 100 * channel, index))
        save(root / f"labelsTr/X{index}.nii.gz", label)


@pytest.mark.parametrize(
    ("labels", "table"),
    [
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, (0, 1, 2, 3)),
        ({"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}, (0, 2, 1, 3)),
        ({"0": "background", "1": "enhancing tumor", "2": "edema", "4": "necrosis"}, (0, 4, 2, 1)),
        ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}, (0, 2, 1, 3)),
        (None, (0, 1, 2, 4)),
    ],
)
def test_the_names_in_dataset_json_count(tmp_path: Path, labels: dict[str, object] | None, table: tuple[int]) -> None:
    nnunet(tmp_path, labels, numbered(*table), numbered(*table))
    assert told(tmp_path) == {"X0": VOLUMES, "X1": VOLUMES}


def test_voxels_to_ignore_cost_their_own_file(tmp_path: Path) -> None:
    ignored = lesion()
    ignored[:2] = 4
    nnunet(tmp_path, {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "ignore": 4}, lesion(), ignored)
    assert told(tmp_path)["X0"] == VOLUMES
    assert "got 4 (ignore)" in told(tmp_path)["X1"]
    skipped: dict[str, str] = {}
    assert [case.id for case in usable(read_cases(tmp_path, BRATS), BRATS, skipped.__setitem__)] == ["X0"]
    assert list(skipped) == ["X1"]


def test_labels_that_belong_to_no_image_are_told(tmp_path: Path) -> None:
    nnunet(tmp_path, None, lesion())
    (tmp_path / "labelsTr/X0.nii.gz").rename(tmp_path / "labelsTr/X0_0000.nii.gz")
    listing = read_studies(tmp_path, BRATS)
    assert [case.label for case in listing.cases] == [None]
    assert [(one.where, one.wrong) for one in listing.unused] == [("labelsTr/X0_0000.nii.gz", True)]


def test_an_id_in_two_folders_is_told_with_both(tmp_path: Path) -> None:
    nnunet(tmp_path, None, lesion(), lesion())
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs/X0_0000.nii.gz").write_bytes((tmp_path / "imagesTr/X1_0000.nii.gz").read_bytes())
    case = read_cases(tmp_path, BRATS)[0]
    assert case.left_out["t1"] == "2 files for t1: imagesTr/X0_0000.nii.gz, imagesTs/X0_0000.nii.gz; keep one"


def test_a_channel_that_is_no_modality_refuses_the_data_set(tmp_path: Path) -> None:
    nnunet(tmp_path, None, lesion())
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI_a"}}))
    with pytest.raises(StudiesError, match=r"channel 0: expected one of .*, got 'MRI_a'"):
        read_cases(tmp_path, BRATS)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ({"A": (0, 1, 2, 4), "B": (0, 1, 2, 0)}, {"A": VOLUMES, "B": "non_enhancing 1.7 ml, edema 0.8 ml"}),
        ({"A": (0, 0, 0, 4), "B": (0, 1, 0, 0)}, {"A": "enhancing 0.6 ml", "B": "non_enhancing 1.7 ml"}),
        ({"A": (0, 1, 2, 3), "B": (0, 0, 0, 0)}, {"A": VOLUMES, "B": "empty"}),
        ({"A": (0, 1, 2, 4), "B": (0, 1, 2, 3)}, {"A": "no numbering", "B": "no numbering"}),
        ({"A": (0, 1, 2, 3), "B": (0, 1, 2, 9)}, {"A": VOLUMES, "B": "got 9"}),
        ({"BraTS-GLI-00001-100": (0, 1, 2, 3)}, {"BraTS-GLI-00001-100": VOLUMES}),
        ({"BraTS-GLI-00001-100": (0, 1, 2, 4)}, {"BraTS-GLI-00001-100": "convention brats2023"}),
        ({"BraTS-GLI-00001-100": (0, 4, 4, 4)}, {"BraTS-GLI-00001-100": "got 4"}),
        ({"BraTS-PED-00001-000": (0, 2, 4, 1)}, {"BraTS-PED-00001-000": VOLUMES}),
        ({"BraTS-MEN-RT-0001-1": (0, 1, 0, 0)}, {"BraTS-MEN-RT-0001-1": "got 1"}),
    ],
)
def test_a_numbering_is_chosen_for_all_files(
    tmp_path: Path, maps: dict[str, tuple[int, ...]], expected: dict[str, str]
) -> None:
    for name, table in maps.items():
        brain(tmp_path / name, numbered(*table))
    found = told(tmp_path)
    assert {name: expected[name] in text for name, text in found.items()} == dict.fromkeys(maps, True), found


def test_a_convention_of_the_task_goes_before_the_values(tmp_path: Path) -> None:
    brain(tmp_path / "A", numbered(0, 2, 4, 1))
    (case,) = read_cases(tmp_path, BRATS.model_copy(update={"convention": "brats_ped"}))
    assert inspect(case, BRATS).label == f"final-0000: {VOLUMES}"


def test_what_was_saved_here_is_in_the_tasks_values_whatever_the_data_set_is_in(tmp_path: Path) -> None:
    brain(tmp_path / "A", numbered(0, 1, 2, 4))
    brain(tmp_path / "B")
    save(tmp_path / "maml_labels/B/final-0001.nii.gz", lesion())
    assert told(tmp_path) == {"A": VOLUMES, "B": f"final-0001: {VOLUMES}"}


@pytest.mark.parametrize(
    ("name", "is_label"),
    [
        ("sub-01/anat/sub-01_dseg.nii.gz", True),
        ("sub-01/anat/sub-01_label-lesion_mask.nii.gz", True),
        ("derivatives/manual/sub-01/anat/sub-01_desc-tumor_mask.nii.gz", True),
        ("derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz", True),
        ("derivatives/fmriprep/sub-01/anat/sub-01_dseg.nii.gz", False),
        ("derivatives/fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz", False),
        ("derivatives/freesurfer/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz", False),
        ("sub-01/anat/sub-01_desc-brain_mask.nii.gz", False),
        ("sub-01/anat/sub-01_label-GM_mask.nii.gz", False),
    ],
)
def test_which_file_of_bids_is_a_label(tmp_path: Path, name: str, is_label: bool) -> None:
    listing = read_studies(touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", name), BRATS)
    assert [case.label is not None for case in listing.cases] == [is_label]
    assert [one.where for one in listing.unused] == ([] if is_label else [name])


def test_a_table_of_bids_tells_the_values(tmp_path: Path) -> None:
    brain(tmp_path / "sub-01/anat", prefix="sub-01_")
    save(tmp_path / "sub-01/anat/sub-01_dseg.nii.gz", numbered(0, 7, 5, 6))
    (tmp_path / "dseg.tsv").write_text("index\tname\n5\tedema\n6\tenhancing tumor\n7\tnecrosis\n")
    assert told(tmp_path) == {"sub-01": VOLUMES}


def test_an_entry_of_a_datalist_costs_only_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a/t1.nii.gz", "b/t1.nii.gz")
    entries = [{"image": {"t1": "a/t1.nii.gz"}}, {"image": {"xray": "x"}}, {"image": {"t1": "a/t1.nii.gz"}}, 7]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    listing = read_studies(tmp_path / "list.json", BRATS)
    assert [case.id for case in listing.cases] == ["a"]
    assert [(one.where, one.wrong) for one in listing.unused] == [
        (f"list.json: entry {number} of training", True) for number in (1, 2, 3)
    ]


def test_a_task_is_not_guessed_against_its_labels(tmp_path: Path) -> None:
    brain(tmp_path / "A", numbered(0, 1, 1, 1))
    with pytest.raises(Exception, match="got images that fit brats_mr and labels that do not: 1 labels hold no edema"):
        choose_task(tmp_path)
    brain(tmp_path / "B", lesion())
    assert choose_task(tmp_path).name == "brats_mr"
