"""What values in label files mean: by names, by ids, or by what a whole data set holds; never a file at a time."""

from __future__ import annotations

import pytest

from maml_app.cases.spec import Convention, TaskSpec
from maml_app.cases.values import common_meaning, named_meaning, returnable, stated_convention
from maml_app.errors import LabelError
from tests.builders import shipped

BRATS, LIVER = shipped("brats_mr"), shipped("liver_multiphase_ct")
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
DECATHLON = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}


@pytest.mark.parametrize(
    ("spec", "labels", "values"),
    [
        (BRATS, DECATHLON, {1: 2, 2: 1, 3: 3}),
        (BRATS, {"background": 0, "ncr": 1, "ed": 2, "et": 3}, {1: 1, 2: 2, 3: 3}),
        (BRATS, {"background": 0, "ED": 1, "NCR": 2, "ET": 4}, {1: 2, 2: 1, 4: 3}),
        (BRATS, REGIONS, {1: 2, 2: 1, 3: 3}),
        (BRATS, {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "ignore": 4}, {1: 1, 2: 2, 3: 3}),
        (BRATS, {"background": 0, "ED": 1, "NCR": 2, "ET": 3, "RC": 4}, {1: 2, 2: 1, 3: 3}),
        (LIVER, {"0": "background", "1": "liver", "2": "cancer"}, {1: 1, 2: 2}),
        (LIVER, {"background": 0, "cancer": 1, "liver": 2}, {1: 2, 2: 1}),
    ],
)  # fmt: skip
def test_names_of_a_dataset_json(spec: TaskSpec, labels: dict[str, object], values: dict[int, int]) -> None:
    assert dict(named_meaning(labels, spec, "dataset.json").values) == values


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "et": "three"}, 'expected "labels" as names and whole numbers'),
        ({"et": 0, "ncr": 1}, "expected value 0 for the background"),
    ],
)
def test_names_that_make_no_sense_are_refused(labels: dict[str, object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        named_meaning(labels, BRATS, "dataset.json")


def test_a_value_without_a_label_is_told_by_its_name() -> None:
    meaning = named_meaning({"background": 0, "NCR": 1, "ED": 2, "ET": 3, "RC": 4, "ignore": 5}, BRATS, "dataset.json")
    with pytest.raises(LabelError, match=r"x: expected .* got 4 \(the name 'RC' is no label of the task\)"):
        meaning.check([0, 1, 4], "x")
    with pytest.raises(LabelError, match=r"got 5 \(ignore\), 9"):
        meaning.check([5, 9], "x")


@pytest.mark.parametrize(
    ("found", "values"),
    [
        ([{1, 2, 3}], {1: 1, 2: 2, 3: 3}),
        ([{1, 2, 4}], {1: 1, 2: 2, 4: 3}),
        ([{1, 2}, {4}], {1: 1, 2: 2, 4: 3}),
        ([{1, 2}], {1: 1, 2: 2}),
        ([set()], {}),
        ([{1, 2, 4}, {7}], {1: 1, 2: 2, 4: 3}),
    ],
)
def test_a_data_set_has_one_numbering(found: list[set[int]], values: dict[int, int]) -> None:
    files = {f"case{index}": frozenset(one) for index, one in enumerate(found)}
    meaning = common_meaning(files, BRATS)
    assert {value: meaning.values[value] for value in values} == values
    assert "files" in meaning.source


def test_a_data_set_of_several_numberings_is_refused_naming_them() -> None:
    with pytest.raises(LabelError, match=r"no numbering .* 3 in 1 of 2 files \(as b\), 4 in 1 of 2 files \(as a\)"):
        common_meaning({"a": frozenset({1, 2, 4}), "b": frozenset({3})}, BRATS)


def test_numberings_that_disagree_are_asked_about() -> None:
    turned = BRATS.model_copy(update={"conventions": {"turned": Convention(values={1: 2, 2: 1, 3: 3})}})
    with pytest.raises(LabelError, match=r"several numberings .* say which it is with convention: NAME"):
        common_meaning({"a": frozenset({1, 2, 3})}, turned)
    assert returnable(turned) == ()  # what is written so would be read as the task's own


@pytest.mark.parametrize(
    ("case_id", "convention"),
    [
        ("BraTS-GLI-00005-101", "brats2023"),
        ("BraTS2024-GLI-00005-101", "brats2023"),
        ("BraTS-MEN-00004-000", "brats2023"),
        ("BraTS-MEN-RT-0001-1", "brats_men_rt"),
        ("BraTS-PED-00001-000", "brats_ped"),
        ("BraTS2021_00000", ""),
        ("P1", ""),
    ],
)
def test_ids_tell_the_convention(case_id: str, convention: str) -> None:
    assert stated_convention(BRATS, case_id) == convention


def test_what_a_client_may_be_answered_in() -> None:
    assert "brats_ped" in BRATS.writable
    assert "brats_ped" not in returnable(BRATS)
    assert "brats2018" in returnable(BRATS)
