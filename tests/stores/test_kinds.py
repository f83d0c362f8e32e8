"""Studies as people have them: a table a kind, from file names to cases, patients, labels, and what is not used."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maml_app.cases.spec import load_task
from maml_app.errors import LabelError, StudiesError
from maml_app.imaging.files import write_label
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.layouts import Listing, read_studies
from tests.imaging.shapes import oblique

BRATS = load_task(shipped_tasks()["brats_mr"])


def lay(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path) -> Listing:
    return read_studies(root, BRATS)


IDS: list[tuple[tuple[str, ...], dict[str, str]]] = [
    (("A1/t1.nii.gz",), {"A1": "A1"}),
    (("A2/A2_t1.nii.gz", "A2/A2_flair.nii"), {"A2": "A2"}),
    (("A3/anat/t1.nii.gz", "A3/labels/label.nii.gz"), {"A3": "A3"}),
    (("A4/T1/A4_t1.nii.gz", "A4/FLAIR/A4_flair.nii.gz"), {"A4": "A4"}),
    (("A5_t1.nii.gz", "A5_t2.nii.gz"), {"A5": "A5"}),
    (("training/A6_t1.nii.gz",), {"A6": "A6"}),
    (("HGG/A7/A7_t1.nii.gz", "HGG/A7/A7_seg.nii.gz"), {"A7": "A7"}),
    (("sub/A8_t1.nii.gz", "sub/A9_t1.nii.gz"), {"sub_A8": "sub_A8", "sub_A9": "sub_A9"}),
    (("B1/2020-01-01/t1.nii.gz", "B1/2021-02-03/t1.nii.gz"), {"B1_2020-01-01": "B1", "B1_2021-02-03": "B1"}),
    (("B2/ses-1/t1.nii.gz", "B2/ses-2/anat/t1.nii.gz"), {"B2_ses-1": "B2", "B2_ses-2": "B2"}),
    (("B3/B3_2020-01-01_t1.nii.gz",), {"B3_2020-01-01": "B3"}),
    (("B4_tp1_t1.nii.gz", "B4_tp2_t1.nii.gz"), {"B4_tp1": "B4", "B4_tp2": "B4"}),
    (("B5_baseline_t1.nii.gz", "B5_followup2_t1.nii.gz"), {"B5_baseline": "B5", "B5_followup2": "B5"}),
    (("B6_pre_t1.nii.gz", "B6_post_t1.nii.gz"), {"B6_pre": "B6", "B6_post": "B6"}),
    (("B7-20200101-t1.nii.gz", "B7-20210101-t1.nii.gz"), {"B7-20200101": "B7", "B7-20210101": "B7"}),
    (("B8/week-012/t1.nii.gz", "B8/week-000-1/t1.nii.gz"), {"B8_week-012": "B8", "B8_week-000-1": "B8"}),
    (
        ("BraTS-GLI-00005-100/BraTS-GLI-00005-100-t1n.nii.gz", "BraTS-GLI-00005-101/BraTS-GLI-00005-101-t1n.nii.gz"),
        {"BraTS-GLI-00005-100": "BraTS-GLI-00005", "BraTS-GLI-00005-101": "BraTS-GLI-00005"},
    ),
    (("siteX/C1/t1.nii.gz", "siteY/C1/t1.nii.gz"), {"siteX_C1": "siteX_C1", "siteY_C1": "siteY_C1"}),
    (("a/b/c/d/e/f/C2/t1.nii.gz",), {"a_b_c_d_e_f_C2": "a_b_c_d_e_f_C2"}),
]


@pytest.mark.parametrize(("names", "expected"), IDS, ids=[names[0] for names, _ in IDS])
def test_ids_and_patients(tmp_path: Path, names: tuple[str, ...], expected: dict[str, str]) -> None:
    lay(tmp_path, *names)
    assert {case.id: case.patient_id for case in listed(tmp_path).cases} == expected


def test_an_id_never_changes_when_others_come(tmp_path: Path) -> None:
    """Every two rows of the table in one folder: the cases are those of each alone."""
    for number, ((one, first), (two, second)) in enumerate(combinations(IDS, 2)):
        lay(tmp_path / str(number), *one, *two)
        found = {case.id: case.patient_id for case in listed(tmp_path / str(number)).cases}
        assert found == {**first, **second}, (one, two)


def test_a_patient_is_what_the_task_says(tmp_path: Path) -> None:
    lay(tmp_path, "X7_scanA_t1.nii.gz", "X7_scanB_t1.nii.gz", "other_t1.nii.gz")
    told = BRATS.model_copy(update={"patient": "^(X[0-9]+)_"})
    found = {case.id: case.patient_id for case in read_studies(tmp_path, told).cases}
    assert found == {"X7_scanA": "X7", "X7_scanB": "X7", "other": "other"}


# files -> case: its label's file name or what is wrong with it; and (part of a name, reason, whether it is wrong)
LABELS: list[tuple[tuple[str, ...], str | None, list[tuple[str, str, bool]]]] = [
    (("P/t1.nii.gz", "P/label.nii.gz"), "label.nii.gz", []),
    (("P/P_t1.nii.gz", "P/P_seg.nii.gz"), "P_seg.nii.gz", []),
    (("P/t1.nii.gz", "P/labels/label.nii.gz"), "label.nii.gz", []),
    (("images/P_t1.nii.gz", "labels/P.nii.gz"), "P.nii.gz", []),
    (("P/t1.nii.gz", "P/seg.nii.gz", "P/label.nii.gz"), "2 label files: label.nii.gz, seg.nii.gz; keep one", []),
    (("P/t1.nii.gz", "P/seg-reader1.nii.gz", "P/seg-reader2.nii.gz"), None, [("seg-reader1", "does not end as", True)]),
    (("P/t1.nii.gz", "P/t1_bet_mask.nii.gz"), None, [("t1_bet_mask", "a mask of the brain", False)]),
    (("P/t1.nii.gz", "P/brain_mask.nii.gz"), None, [("brain_mask", "a mask of the brain", False)]),
    (("P/t1.nii.gz", "P/tissue_parc.nii.gz"), None, [("tissue_parc", "fits no modality", False)]),
    (("P/t1.nii.gz", "P/t2.nrrd", "P/notes.txt"), None, [("t2.nrrd", ".nrrd is not read; convert it", True)]),
    (("P/t1.nii.gz", "P/t2.img", "P/t2.hdr"), None, [("t2.img", "is not read", True), ("t2.hdr", "not read", True)]),
    (("P/t1.nii.gz", "P/IM1.dcm"), None, [("IM1.dcm", "DICOM is read from an archive", False)]),
    (("P/t1.nii.gz", "P/swi.nii.gz"), None, [("swi.nii.gz", "fits no modality", False)]),
    (("P/t1.nii.gz", "Q Q/t1.nii.gz"), None, [("Q Q/t1", "expected letters, digits", True)]),
    (("P/t1.nii.gz", "Müller/t1.nii.gz"), None, [("Müller/t1", "expected letters, digits", True)]),
    (("P/t1.nii.gz", "Q/label.nii.gz"), None, [("Q/label", "no image of a case Q", True)]),
    (("P/t1.nii.gz", "1/2/3/4/5/6/7/8/9/t1.nii.gz"), None, [("1/2/3", "folders deeper than 8", True)]),
    (("P/t1.nii.gz", "P/._t2.nii.gz", "__MACOSX/P/t2.nii.gz", "P/.DS_Store"), None, []),
]


@pytest.mark.parametrize(("names", "label", "unused"), LABELS, ids=[" ".join(row[0][1:]) for row in LABELS])
def test_a_label_is_one_by_an_explicit_rule_and_nothing_is_left_out_in_silence(
    tmp_path: Path, names: tuple[str, ...], label: str | None, unused: list[tuple[str, str, bool]]
) -> None:
    lay(tmp_path, *names)
    found = listed(tmp_path)
    (case,) = found.cases
    assert case.id == "P"
    assert sorted(case.images) == ["t1"]
    if case.label is None:
        assert label is None
    else:
        assert label == (case.label.problem or case.label.path.name)
    assert len(found.unused) == len(unused)
    for part, reason, wrong in unused:
        assert any(part in file.where and reason in file.reason and file.wrong == wrong for file in found.unused), part


def test_two_images_of_one_modality_cost_that_modality_only(tmp_path: Path) -> None:
    lay(tmp_path, "P/t1.nii.gz", "P/P_t1.nii.gz", "P/t2.nii.gz", "P/label.nii.gz")
    (case,) = listed(tmp_path).cases
    assert sorted(case.images) == ["t2"]
    assert case.left_out["t1"] == "2 files for t1: P_t1.nii.gz, t1.nii.gz; keep one"


def test_links_are_followed_once(tmp_path: Path) -> None:
    lay(tmp_path / "elsewhere", "Q/t1.nii.gz")
    lay(tmp_path / "studies", "P/t1.nii.gz")
    (tmp_path / "studies" / "P" / "self").symlink_to(tmp_path / "studies")
    (tmp_path / "studies" / "Q").symlink_to(tmp_path / "elsewhere" / "Q")
    (tmp_path / "studies" / "P" / "t2.nii.gz").symlink_to(tmp_path / "nothing.nii.gz")
    found = listed(tmp_path / "studies")
    assert [(case.id, sorted(case.images)) for case in found.cases] == [("P", ["t1", "t2"]), ("Q", ["t1"])]
    assert [(file.where, file.wrong) for file in found.unused] == [("P/self", False)]


# labels of a dataset.json -> file value: the task's value; or what is said of a value, or of the whole
NAMED: list[tuple[dict[str, Any], dict[int, int] | str]] = [
    ({"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}, {1: 2, 2: 1, 3: 3}),
    ({"background": 0, "enhancing": 1, "edema": 2, "non_enhancing": 3}, {1: 3, 2: 2, 3: 1}),
    ({"background": 0, "non_enhancing": 1, "edema": 2, "enhancing": 4}, {1: 1, 2: 2, 4: 3}),
    ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}, {1: 2, 2: 1, 3: 3}),
    ({"background": 0, "non_enhancing": 1, "edema": 2, "enhancing": 3, "ignore": 4}, r"got 4 \(ignore\)"),
    ({"background": 0, "non_enhancing": 1, "edema": 2, "cavity": 4}, "the name 'cavity' is no label of the task"),
    ({"non_enhancing": 0, "edema": 1}, "expected value 0 for the background"),
    ({"background": 0, "edema": "one"}, "as names and whole numbers, got 'edema': 'one'"),
]


@pytest.mark.parametrize(("labels", "expected"), NAMED, ids=[str(row[0])[:60] for row in NAMED])
def test_a_dataset_json_says_what_values_mean(
    tmp_path: Path, labels: dict[str, Any], expected: dict[int, int] | str
) -> None:
    lay(tmp_path, "imagesTr/A_0000.nii.gz", "labelsTr/A.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": labels}))
    (case,) = listed(tmp_path).cases
    assert case.label is not None
    assert case.label.meaning is not None

    def told() -> dict[int, int]:
        assert case.label is not None
        assert case.label.meaning is not None
        meaning = case.label.meaning()
        meaning.check([1, 2, 3, 4] if isinstance(expected, str) else list(expected), "label")
        return dict(meaning.values)

    if isinstance(expected, str):
        with pytest.raises(LabelError, match=expected):
            told()
    else:
        assert told() == expected


def test_a_dataset_json_with_other_channels_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "imagesTr/A_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI_a"}}))
    with pytest.raises(StudiesError, match=r"channel 0: expected one of .*, got 'MRI_a'"):
        listed(tmp_path)


# values in the label files of a set, by case -> the numbering that is chosen, or why none is
SETS: list[tuple[dict[str, list[int]], str]] = [
    ({"a": [1, 2, 4], "b": [1], "c": []}, "numbering brats2018, as it fits all label files"),
    ({"a": [1, 2, 3], "b": [1, 2], "c": [3]}, "numbering task, as it fits all label files"),
    ({"a": [1, 2], "b": [2]}, "numbering"),  # both say the same of 1 and 2
    ({"a": [1, 2, 4], "b": [1, 2, 3]}, "no numbering of the labels fits the whole data set"),
    ({"a": [1, 2, 3, 4]}, "no numbering of the labels fits the whole data set"),
    ({"BraTS-GLI-00001-000": [1, 2, 3]}, "convention brats2023, as the ids of the cases say"),
]


@pytest.mark.parametrize(("values", "expected"), SETS, ids=[str(row[0]) for row in SETS])
def test_a_convention_is_chosen_once_for_a_data_set(
    tmp_path: Path, values: dict[str, list[int]], expected: str
) -> None:
    grid = oblique((10, 9, 8), (1.0, 1.2, 2.0), seed=1)
    for case_id, held in values.items():
        lay(tmp_path, f"{case_id}/t1.nii.gz")
        label = np.zeros(grid.shape, np.uint8)
        for place, value in enumerate(held):
            label[place + 1, 2:4, 3] = value
        write_label(tmp_path / case_id / "label.nii.gz", label, grid.affine)
    case = listed(tmp_path).cases[0]
    assert case.label is not None
    assert case.label.meaning is not None
    if expected.startswith("no "):
        with pytest.raises(LabelError, match=expected):
            case.label.meaning()
    else:
        assert case.label.meaning().source.startswith(expected)
