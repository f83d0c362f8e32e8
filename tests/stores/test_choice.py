from __future__ import annotations

from pathlib import Path

import pytest

from maml_app.errors import StudiesError, TaskSpecError
from maml_app.stores.choice import choose_task, open_studies, shipped_tasks
from tests.conftest import TOY


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("names", "task"),
    [
        (("A/ct.nii.gz", "A/pet.nii.gz", "A/mr_t1.nii.gz"), "sarcoma_pet_ct_mr"),
        (("A/A_t1.nii.gz", "A/A_t1ce.nii.gz", "A/A_t2.nii.gz"), "brats_mr"),
        (("A/arterial.nii.gz", "A/portal_venous.nii.gz"), "liver_multiphase_ct"),
    ],
)
def test_files_tell_the_task(tmp_path: Path, names: tuple[str, ...], task: str) -> None:
    touch(tmp_path, *names)
    assert choose_task(tmp_path).name == task


def test_the_order_is_asked_then_studies_then_app_then_files(tmp_path: Path) -> None:
    studies, app = tmp_path / "studies", tmp_path / "app"
    touch(studies, "A/ct.nii.gz", "A/pet.nii.gz")
    app.mkdir()
    assert choose_task(studies, app_dir=app).name == "sarcoma_pet_ct_mr"
    (app / "task.yaml").write_text(TOY.replace("name: toy", "name: apps_own", 1))
    assert choose_task(studies, app_dir=app).name == "apps_own"
    (studies / "task.yaml").write_text(TOY)
    assert choose_task(studies, app_dir=app).name == "toy"
    assert choose_task(studies, "brats_mr", app).name == "brats_mr"
    assert choose_task(studies, str(app), app).name == "apps_own"


def test_no_match_and_several_matches_list_the_choices(tmp_path: Path) -> None:
    names = ".*".join(sorted(shipped_tasks()))
    with pytest.raises(TaskSpecError, match=rf"{names}.* got none that fits; name one with --conf task NAME"):
        choose_task(tmp_path)
    touch(tmp_path, "A/t1.nii.gz")
    with pytest.raises(TaskSpecError, match=r"got several that fit equally: \['brats_mr', 'sarcoma_pet_ct_mr'\]"):
        choose_task(tmp_path)
    with pytest.raises(TaskSpecError, match=rf"expected a task of .*{names}.*, got 'nothing'"):
        choose_task(tmp_path, "nothing")


def test_studies_that_are_not_there_or_not_served_are_told(tmp_path: Path) -> None:
    spec = choose_task(tmp_path, "brats_mr")
    with pytest.raises(StudiesError, match="got nothing there"):
        open_studies(str(tmp_path / "none"), spec)
    with pytest.raises(StudiesError, match="got a DICOMweb address"):
        open_studies("http://127.0.0.1/dicom-web", spec)
