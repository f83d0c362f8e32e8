from __future__ import annotations

import pytest

from maml_app.cases.matching import match, modality_called, stem
from maml_app.cases.spec import load_task
from maml_app.stores.choice import shipped_tasks

BRATS = load_task(shipped_tasks()["brats_mr"])
SARCOMA = load_task(shipped_tasks()["sarcoma_pet_ct_mr"])


@pytest.mark.parametrize(
    ("name", "role", "modality", "prefix"),
    [
        ("t1", "image", "t1", ""),
        ("BraTS18_X_1_t1ce", "image", "t1ce", "BraTS18_X_1"),
        ("BraTS-GLI-00000-000-t1c", "image", "t1ce", "BraTS-GLI-00000-000"),
        ("BraTS-GLI-00000-000-t2f", "image", "flair", "BraTS-GLI-00000-000"),
        ("BraTS-GLI-00000-000-t2w", "image", "t2", "BraTS-GLI-00000-000"),
        ("BraTS-GLI-00000-000-seg", "label", None, "BraTS-GLI-00000-000"),
        ("sub-01_ce-gd_T1w", "image", "t1ce", "sub-01"),
        ("sub-01_T1w", "image", "t1", "sub-01"),
        ("t1post", "image", "t1ce", ""),
        ("foo_T2-FLAIR", "image", "flair", "foo"),
        ("label_t1ce", "label", "t1ce", ""),
        ("x_label_t1", "label", "t1", "x"),
    ],
)
def test_names_say_what_a_file_is(name: str, role: str, modality: str | None, prefix: str) -> None:
    found = match(name, BRATS)
    assert found is not None
    assert (found.role, found.modality, found.prefix) == (role, modality, prefix)


@pytest.mark.parametrize("name", ["brain", "not1", "xt1", "t1_brainmask_x", ""])
def test_other_names_are_nothing(name: str) -> None:
    assert match(name, BRATS) is None


def test_longest_ending_wins() -> None:
    found = match("STS_002_mr_t1", SARCOMA)
    assert found is not None
    assert found.prefix == "STS_002"


def test_stem_and_channel_names() -> None:
    assert stem("A.b.NII.GZ") == "A.b"
    assert stem("a.dcm") is None
    assert modality_called("T1-Gd", BRATS) is None
    assert modality_called("FLAIR", BRATS) == "flair"
    assert modality_called("T1gd", BRATS) == "t1ce"
