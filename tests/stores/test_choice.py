from __future__ import annotations

from pathlib import Path

import pytest

from maml_app.cases.spec import TaskSpec
from maml_app.errors import ArchiveError, StudiesError, TaskSpecError
from maml_app.settings import Settings
from maml_app.stores.cache import cache_folder
from maml_app.stores.choice import choose_task, open_studies, shipped_tasks
from maml_app.stores.dicomweb import DicomWebStore
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


def test_an_archive_that_does_not_answer_is_told_with_its_address() -> None:
    with pytest.raises(ArchiveError, match=r"127\.0\.0\.1:9/dicom-web: listing series failed: it cannot be reached"):
        choose_task("http://127.0.0.1:9/dicom-web")


def test_options_of_an_archive(tmp_path: Path, spec: TaskSpec) -> None:
    def forced(assign: str) -> dict[str, str | None]:
        store = open_studies("http://127.0.0.1:9/dicom-web/", spec, Settings(cache=str(tmp_path), assign=assign))
        assert isinstance(store, DicomWebStore)
        return store.forced

    assert forced("1.2.3=ct, 1.2.4=none") == {"1.2.3": "ct", "1.2.4": None}
    file = tmp_path / "mine.json"
    file.write_text('{"1.2.3": "pet", "1.2.4": null}', encoding="utf-8")
    assert forced(str(file)) == {"1.2.3": "pet", "1.2.4": None}
    beside = cache_folder("http://127.0.0.1:9/dicom-web", str(tmp_path)) / "assign.json"
    beside.parent.mkdir()
    beside.write_text('{"1.2.9": "mr_t1", "1.2.3": "mr_t1"}', encoding="utf-8")
    assert forced("1.2.3=ct") == {"1.2.9": "mr_t1", "1.2.3": "ct"}
    with pytest.raises(TaskSpecError, match=r"1\.2\.3: expected one of \['ct', 'pet', 'mr_t1', 'none'\], got 'xray'"):
        forced("1.2.3=xray")
    with pytest.raises(TaskSpecError, match=r"nothing\.json: expected \{SeriesInstanceUID"):
        forced("nothing.json")
