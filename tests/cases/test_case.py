from __future__ import annotations

from pathlib import Path

import pytest

from maml_app.cases.case import Case, FileRef, check_id, subsets
from maml_app.errors import CaseError


@pytest.mark.parametrize("case_id", ["STS_002", "BraTS-GLI-00000-000", "a.b", "0"])
def test_plain_ids_pass(case_id: str) -> None:
    assert check_id(case_id) == case_id


@pytest.mark.parametrize("case_id", ["", "..", "../x", "a/b", "a..b", ".hidden", "a b", "a@b", "x\n"])
def test_other_ids_are_refused(case_id: str) -> None:
    with pytest.raises(CaseError, match=r"case id .*: expected letters, digits"):
        check_id(case_id)


def test_the_reference_lends_the_frame_or_else_the_next_present() -> None:
    images = {"pet": FileRef(Path("pet.nii")), "mr": FileRef(Path("mr.nii"))}
    case = Case("a", images)
    assert case.frame_modality(("pet", "ct", "mr")) == "pet"
    assert case.frame_modality(("ct", "mr", "pet")) == "mr"
    assert case.missing(("ct", "pet", "mr")) == ("ct",)
    with pytest.raises(CaseError, match=r"case a: expected at least one of \['ct'\]"):
        case.frame_modality(("ct",))


def test_subsets_are_all_and_each_once() -> None:
    assert list(subsets("abc")) == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
