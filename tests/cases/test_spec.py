from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from maml_app.cases.spec import TaskSpec, load_task, parse_task
from maml_app.errors import TaskSpecError
from maml_app.stores.choice import shipped_tasks
from tests.conftest import TOY


def changed(**changes: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(TOY), **changes})


def toy(key: str) -> list[dict[str, object]]:
    part = yaml.safe_load(TOY)[key]
    assert isinstance(part, list)
    return part


@pytest.mark.parametrize("name", ["brats_mr", "liver_multiphase_ct", "sarcoma_pet_ct_mr"])
def test_shipped_task_is_valid_and_named_after_its_folder(name: str) -> None:
    spec = load_task(shipped_tasks()[name])
    assert spec.name == name
    assert all(label.type.scheme == label.category.scheme == "SCT" for label in spec.labels)
    assert (shipped_tasks()[name].parent / "README.md").is_file()


def test_shipped_apps_share_one_main() -> None:
    texts = {(path.parent / "main.py").read_text() for path in shipped_tasks().values()}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(colour="red"), r"here\.yaml: colour: Extra inputs are not permitted, got 'red'"),
        (
            changed(labels=[toy("labels")[0], {**toy("labels")[1], "value": 1}]),
            r"here\.yaml: labels: .*1\.\.2 in order",
        ),
        (
            changed(labels=[{**toy("labels")[0], "value": 3}]),
            r"label values must be 1\.\.1 in order, each once, got \[3\]",
        ),
        (changed(reference="xray"), r"reference must be one of \['ct', 'pet', 'mr_t1'\], got 'xray'"),
        (changed(modalities=[toy("modalities")[0]] * 2), "modality name 'ct' is used more than once"),
        (changed(modalities=[{"name": "ct", "kind": "CT", "files": ["ct"]}]), "a CT modality needs window"),
        (
            changed(regions=[{"name": "all", "labels": ["organ", "bone"]}]),
            "region 'all' names the unknown label 'bone'",
        ),
        (changed(training={"patch": [15, 16, 16]}), r"training\.patch \[15, 16, 16\] must be divisible"),
        (changed(preprocess={"spacing_mm": [1, 1, 0]}), r"preprocess\.spacing_mm\.2: .*greater than 0, got 0"),
        (changed(conventions={"x": {1: 1, 2: 1}}), "convention 'x' must map each file value to one label value"),
        ("- a\n- b\n", r"here\.yaml: expected a mapping of keys, got list"),
        (f"{TOY}training: {{steps: 7}}\n", r"here\.yaml: .*: key 'training' in line 25 and again in line 26; keep one"),
        (TOY.replace("{steps: 3,", "{steps: 3, steps: 4,"), r"key 'steps' in line 25 and again in line 25"),
        ("a: [", r"here\.yaml: expected YAML"),
    ],
)
def test_a_wrong_task_is_refused_with_file_key_and_value(text: str, message: str) -> None:
    with pytest.raises(TaskSpecError, match=message):
        parse_task(text, "here.yaml")


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskSpecError, match=r"task\.yaml: expected a task\.yaml that can be read"):
        load_task(tmp_path)


def test_labels_are_found_by_name_alias_and_in_any_writing(spec: TaskSpec) -> None:
    assert spec.value_of("Lesion") == spec.value_of("TUMOUR") == 2
    assert spec.value_of("bone") is None
    assert load_task(shipped_tasks()["brats_mr"]).value_of("NCR/NET") == 1


def test_signature_changes_with_what_a_model_depends_on(spec: TaskSpec) -> None:
    assert parse_task(TOY, "x").signature() == spec.signature()
    assert parse_task(changed(title="Another title"), "x").signature() == spec.signature()
    assert parse_task(changed(preprocess={"spacing_mm": [4, 8, 8]}), "x").signature() != spec.signature()


def test_regions_are_scored_in_place_of_labels(spec: TaskSpec) -> None:
    assert spec.scored == {"organ": (1,), "lesion": (2,)}
    brats = load_task(shipped_tasks()["brats_mr"])
    assert brats.scored == {"whole_tumour": (1, 2, 3), "tumour_core": (1, 3), "enhancing_tumour": (3,)}
