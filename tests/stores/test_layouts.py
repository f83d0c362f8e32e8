"""Every layout the README names, from file names alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from maml_app.cases.case import LabelRef
from maml_app.cases.source import teaching
from maml_app.cases.spec import load_task
from maml_app.errors import StudiesError
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.layouts import read_cases

BRATS = load_task(shipped_tasks()["brats_mr"])
SARCOMA = load_task(shipped_tasks()["sarcoma_pet_ct_mr"])


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def summary(root: Path, spec=BRATS) -> dict[str, tuple[list[str], str | None]]:  # type: ignore[no-untyped-def]
    return {
        case.id: (sorted(case.images), case.label.path.name if case.label else None) for case in read_cases(root, spec)
    }


def test_a_folder_a_case(tmp_path: Path) -> None:
    touch(tmp_path, "A/ct.nii.gz", "A/pet.nii.gz", "A/label.nii.gz", "B/B_mr_t1.nii", "B/notes.txt", "C/other.nii.gz")
    assert summary(tmp_path, SARCOMA) == {"A": (["ct", "pet"], "label.nii.gz"), "B": (["mr_t1"], None)}


def test_labels_of_several_grids_prefer_the_plain_one_then_the_references(tmp_path: Path) -> None:
    touch(tmp_path, "A/ct.nii.gz", "A/mr_t1.nii.gz", "A/label_mr_t1.nii.gz", "A/label_ct.nii.gz", "A/label_pet.nii.gz")
    assert summary(tmp_path, SARCOMA)["A"] == (["ct", "mr_t1"], "label_mr_t1.nii.gz")
    touch(tmp_path, "A/label.nii.gz")
    assert summary(tmp_path, SARCOMA)["A"][1] == "label.nii.gz"


@pytest.mark.parametrize(
    ("case", "names", "seg"),
    [
        ("Brats18_TCIA_1", ("_t1", "_t1ce", "_t2", "_flair"), "_seg"),
        ("BraTS20_Training_001", ("_t1", "_t1ce", "_t2", "_flair"), "_seg"),
        ("BraTS2021_00000", ("_t1", "_t1ce", "_t2", "_flair"), "_seg"),
        ("BraTS-GLI-00000-000", ("-t1n", "-t1c", "-t2w", "-t2f"), "-seg"),
    ],
)
@pytest.mark.parametrize("flat", [True, False])
def test_brats_names_flat_or_in_folders(
    tmp_path: Path, case: str, names: tuple[str, ...], seg: str, flat: bool
) -> None:
    home = "" if flat else f"HGG/{case}/"
    touch(tmp_path, *[f"{home}{case}{name}.nii.gz" for name in (*names, seg)])
    assert summary(tmp_path) == {case: (["flair", "t1", "t1ce", "t2"], f"{case}{seg}.nii.gz")}


def test_nnunet(tmp_path: Path) -> None:
    channels = {"0": "T1", "1": "FLAIR"}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": channels, "file_ending": ".nii.gz"}))
    touch(tmp_path, "imagesTr/X_0000.nii.gz", "imagesTr/X_0001.nii.gz", "labelsTr/X.nii.gz", "imagesTs/Y_0001.nii.gz")
    assert summary(tmp_path) == {"X": (["flair", "t1"], "X.nii.gz"), "Y": (["flair"], None)}


def test_a_test_set_scores_and_never_teaches(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}}))
    for part, case in (("Tr", "X"), ("Ts", "Y"), ("Val", "Z")):
        touch(tmp_path, f"images{part}/{case}_0000.nii.gz", f"labels{part}/{case}.nii.gz")
    touch(tmp_path, "imagesTs/W_0000.nii.gz")
    cases = {case.id: case for case in read_cases(tmp_path, BRATS)}
    assert [case.id for case in teaching(cases.values(), BRATS)] == ["W", "X"]
    assert cases["Y"].label is not None
    assert cases["Y"].notes == ("of a test set: it scores models and never teaches one",)
    corrected = replace(cases["Y"], labels=(*cases["Y"].labels, LabelRef(tmp_path / "new.nii.gz", 1)))
    assert teaching([corrected], BRATS) == []
    entries = {
        section: [{"id": section, "image": f"{section}/t1.nii.gz", "label": f"{section}/seg.nii.gz"}]
        for section in ("training", "validation", "test", "testing")
    }
    cases = {case.id: case for case in read_cases(write(tmp_path, "list.json", entries), BRATS)}
    assert sorted(cases) == sorted(entries)
    assert [case.id for case in teaching(cases.values(), BRATS)] == ["training"]


def test_one_4d_file_as_in_the_decathlon(tmp_path: Path) -> None:
    content = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "training": []}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    touch(tmp_path, "imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "imagesTr/._BRATS_001.nii.gz")
    (case,) = read_cases(tmp_path, BRATS)
    assert case.id == "BRATS_001"
    assert {name: ref.channel for name, ref in case.images.items()} == {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
    assert case.label is not None


def test_bids_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    for session in ("1", "2"):
        stem = f"sub-01/ses-{session}/anat/sub-01_ses-{session}"
        touch(tmp_path, f"{stem}_T1w.nii.gz", f"{stem}_ce-gd_T1w.nii.gz", f"{stem}_FLAIR.nii.gz")
    touch(tmp_path, "sub-02/anat/sub-02_T2w.nii.gz", "derivatives/seg/sub-02/anat/sub-02_dseg.nii.gz")
    cases = read_cases(tmp_path, BRATS)
    assert [(case.id, case.patient_id) for case in cases] == [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("sub-02", "sub-02"),
    ]
    assert sorted(cases[0].images) == ["flair", "t1", "t1ce"]
    assert cases[2].label is not None


def test_contrast_in_bids_is_an_entity_whatever_it_says(tmp_path: Path) -> None:
    for subject, name in (("01", "ce-gd_run-1"), ("02", "ce-Gadovist"), ("03", "acq-mprage_ce-gadobutrol")):
        touch(tmp_path, f"sub-{subject}/anat/sub-{subject}_{name}_T1w.nii.gz")
    touch(tmp_path, "sub-03/anat/sub-03_T1w.nii.gz", "sub-03/anat/sub-03_ce-gadobutrol_FLAIR.nii.gz")
    touch(tmp_path, "sub-04/anat/sub-04_part-phase_T2w.nii.gz", "sub-04/anat/sub-04_part-mag_T2w.nii.gz")
    cases = {
        case.id: {name: ref.path.name for name, ref in case.images.items()} for case in read_cases(tmp_path, BRATS)
    }
    assert cases == {
        "sub-01": {"t1ce": "sub-01_ce-gd_run-1_T1w.nii.gz"},
        "sub-02": {"t1ce": "sub-02_ce-Gadovist_T1w.nii.gz"},
        "sub-03": {
            "t1": "sub-03_T1w.nii.gz",
            "t1ce": "sub-03_acq-mprage_ce-gadobutrol_T1w.nii.gz",
            "flair": "sub-03_ce-gadobutrol_FLAIR.nii.gz",
        },
        "sub-04": {"t2": "sub-04_part-mag_T2w.nii.gz"},
    }


@pytest.mark.parametrize("order", [("flair", "t1ce", "t1", "t2"), ("t1", "t1ce", "t2", "flair")])
def test_a_list_goes_by_its_names_and_not_by_its_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    content = [{"image": [f"a/a_{name}.nii.gz" for name in order]}]
    (case,) = read_cases(write(tmp_path, "list.json", content), BRATS)
    assert {name: ref.path.name for name, ref in case.images.items()} == {name: f"a_{name}.nii.gz" for name in order}


def test_a_list_whose_names_say_nothing_goes_by_its_order(tmp_path: Path) -> None:
    content = [{"id": "a", "image": [f"a/{number}.nii.gz" for number in range(4)]}]
    (case,) = read_cases(write(tmp_path, "list.json", content), BRATS)
    assert [case.images[name].path.name for name in BRATS.modality_names] == [f"{number}.nii.gz" for number in range(4)]


@pytest.mark.parametrize(
    "image",
    [
        {"ct": "a/ct.nii.gz", "PET": "a/pet.nii.gz", "mr": "a/mr_t1.nii.gz"},
        ["a/ct.nii.gz", "a/pet.nii.gz", "a/mr_t1.nii.gz"],
    ],
)
def test_a_datalist(tmp_path: Path, image: object) -> None:
    entry = {"image": image, "label": "a/label.nii.gz"}
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry], "testing": [{"image": "b/b_ct.nii.gz"}]}))
    cases = read_cases(tmp_path / "list.json", SARCOMA)
    assert [(case.id, sorted(case.images), case.label is not None) for case in cases] == [
        ("a", ["ct", "mr_t1", "pet"], True),
        ("b", ["ct"], False),
    ]
    assert cases[0].images["pet"].path == tmp_path / "a/pet.nii.gz"


def write(tmp_path: Path, name: str, content: object) -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path if name == "list.json" else tmp_path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.json", "{", r"list\.json: expected JSON"),
        ("list.json", {"training": []}, "expected a datalist"),
        ("list.json", [{"image": ["a.nii", "b.nii"]}], r'entry 0: expected "image" as a path'),
        ("list.json", [{"image": {"xray": "a.nii"}}], "expected a modality of .*, got 'xray'"),
        (
            "list.json",
            [{"image": ["pet.nii", "b.nii", "c.nii"]}],
            r"order \['ct', .*got pet.nii in the place of ct; name",
        ),
        ("list.json", [{"image": {"pet": "a.nii", "PT": "b.nii"}}], "expected one file a modality, got .*a.nii.*b.nii"),
        ("list.json", [{"id": "../x", "image": "ct.nii"}], r"case id '\.\./x'"),
        ("dataset.json", {"channel_names": {"0": "xray"}}, "channel 0: expected one of .*, got 'xray'"),
        ("dataset.json", {"channel_names": ["CT"]}, 'expected "channel_names" or "modality"'),
    ],
)
def test_lists_that_cannot_be_used_are_told(tmp_path: Path, name: str, content: object, message: str) -> None:
    touch(tmp_path, "imagesTr/X_0000.nii.gz")
    with pytest.raises(StudiesError, match=message):
        read_cases(write(tmp_path, name, content), SARCOMA)


def test_a_location_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StudiesError, match="expected a folder of studies or a datalist JSON, got neither"):
        read_cases(tmp_path / "none", SARCOMA)


def test_equal_folder_names_get_their_parents_name(tmp_path: Path) -> None:
    touch(tmp_path, "x/1/ct.nii.gz", "y/1/ct.nii.gz")
    assert sorted(summary(tmp_path, SARCOMA)) == ["x_1", "y_1"]


def test_the_label_store_and_hidden_files_are_not_cases(tmp_path: Path) -> None:
    touch(tmp_path, "maml_labels/A/ct.nii.gz", ".cache/B/ct.nii.gz", "A/ct.nii.gz")
    assert sorted(summary(tmp_path, SARCOMA)) == ["A"]


def test_two_files_for_one_modality_leave_it_out(tmp_path: Path) -> None:
    touch(tmp_path, "A/ct.nii.gz", "A/A_ct.nii.gz", "A/pet.nii.gz")
    (case,) = read_cases(tmp_path, SARCOMA)
    assert list(case.images) == ["pet"]
    assert case.left_out == {"ct": "2 files for ct: A_ct.nii.gz, ct.nii.gz; keep one"}
