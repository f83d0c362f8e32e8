"""Plans for cases of known size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maml_app.__main__ import app
from maml_app.cases.spec import TaskSpec, load_task, parse_task
from maml_app.errors import TrainingError
from maml_app.imaging.files import read_label, write_image, write_label
from maml_app.imaging.fingerprint import Fingerprint
from maml_app.imaging.labels import from_task_values
from maml_app.network.settings import Network
from maml_app.phantom.scene import make_case
from maml_app.training.plan import make_plan, step_cost
from tests.builders import as_datalist
from tests.conftest import TOY
from tests.harness.server import ROOT


def found(spacing: tuple[float, ...], size: tuple[float, ...], **more: Any) -> Fingerprint:
    three = (spacing[0], spacing[1], spacing[2]), (size[0], size[1], size[2])
    values: dict[str, Any] = {"windows_hu": {}, "lesions_ml": (1.0,), "missing": {}, **more}
    return Fingerprint(cases=3, spacing_mm=(three[0],) * 3, size_mm=(three[1],) * 3, **values)


def test_cubes_are_halved_alike_and_thick_slices_later(spec: TaskSpec) -> None:
    cube = make_plan(found((1, 1, 1), (64, 64, 64)), spec, 8)
    assert cube.spacing_mm == (1, 1, 1)
    assert cube.patch == (64, 64, 64)
    assert cube.strides[0] == (1, 1, 1)
    assert set(cube.strides[1:]) == {(2, 2, 2)}
    assert np.prod(cube.strides, axis=0).tolist() == [16, 16, 16]  # four voxels are left
    assert cube.channels == tuple(4 * 2**level for level in range(5))
    thick = make_plan(found((1, 1, 5), (64, 64, 80)), spec, 8)
    assert thick.spacing_mm == (1, 1, 5)
    assert thick.strides[1:3] == ((2, 2, 1), (2, 2, 1))
    assert thick.strides[3] == (2, 2, 2)  # 4 mm in the plane, 5 across
    assert thick.patch == (64, 64, 16)


def test_an_axis_much_coarser_than_the_others_takes_the_finer_cases_spacing(spec: TaskSpec) -> None:
    mixed = Fingerprint(4, ((1, 1, 2), (1, 1, 6), (1, 1, 6), (1, 1, 6)), ((64, 64, 60),) * 4, {}, (), {})
    assert make_plan(mixed, spec, 8).spacing_mm == pytest.approx((1, 1, 3.2), abs=0.1)


@pytest.mark.parametrize("stem", [(2, 2, 2), (2, 2, 1)])
def test_levels_are_planned_for_what_a_stem_takes_together(spec: TaskSpec, stem: tuple[int, int, int]) -> None:
    wide = spec.model_copy(update={"network": spec.network.model_copy(update={"stem": stem})})
    for size in ((64, 64, 80), (150, 90, 70)):
        made = make_plan(found((1, 1, 5), size), wide, 2)
        task = parse_task(json.dumps(made.applied(wide.model_dump(mode="json"))), "planned")
        assert task.network.stem == stem
        places = np.array(task.training.patch) / np.array(task.network.divisor)
        assert (places == places.round()).all()
    plain, stemmed = (make_plan(found((1, 1, 1), (64, 64, 64)), task, 8) for task in (spec, wide))
    assert stemmed.memory_gb < plain.memory_gb / 2
    assert len(stemmed.strides) <= len(plain.strides)


def test_less_memory_gives_smaller_patches_then_says_so(spec: TaskSpec) -> None:
    big = found((1, 1, 1), (200, 120, 100))
    plans = [make_plan(big, spec, memory) for memory in (4.0, 1.0, 0.25)]
    volumes = [math.prod(plan.patch) for plan in plans]
    assert volumes[0] > volumes[1] > volumes[2]
    for plan, memory in zip(plans, (4.0, 1.0, 0.25), strict=True):
        assert plan.memory_gb <= memory
        assert plan.memory_gb > 0.5 * memory  # as large as fits
        assert 2 <= plan.batch <= 8
        # the shape stays that of the cases
        assert plan.patch[0] > plan.patch[2]
    with pytest.raises(TrainingError, match=r"expected at least .* GB for a training step .* allow more memory"):
        make_plan(big, spec, 1e-5)


def test_memory_is_estimated_from_a_small_patch(spec: TaskSpec) -> None:
    """Against all that autograd keeps for a large patch."""
    network = Network(channels=(8, 16, 32), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)))
    from maml_app.network.ensemble import build_network

    module = build_network(3, spec.classes, network).train()
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images, presence = torch.zeros(1, 3, 48, 48, 32), torch.ones(1, 3, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = module(images, presence, presence.repeat(4, 1, 1))  # three alone, and one part more
        loss = torch.stack([level.sum() for level in [*outputs.fused, *outputs.parts]])
    assert loss.requires_grad
    kept = sum(saved.values()) / 1e9
    assert 1.0 < step_cost(network, spec).gb((48, 48, 32)) / kept < 1.8


def test_the_plan_is_a_task_with_its_own_values_replaced() -> None:
    shipped = load_task(ROOT / "apps" / "liver_multiphase_ct")
    narrow = shipped.model_copy(update={"network": shipped.network.model_copy(update={"channels": (4, 8)})})
    narrow = narrow.model_copy(update={"network": narrow.network.model_copy(update={"strides": ((1,) * 3, (2,) * 3)})})
    made = make_plan(found((0.8, 0.8, 2), (300, 250, 200), windows_hu={"arterial": (-20.0, 190.0)}), narrow, 0.2)
    content = made.applied(shipped.model_dump(mode="json", exclude_defaults=True))
    task = parse_task(str(content), "planned")  # a mapping is YAML
    assert [modality.window for modality in task.modalities][:2] == [(-160, 240), (-20, 190)]
    assert task.training.patch == made.patch
    assert task.training.steps == shipped.training.steps
    assert task.regions == shipped.regions
    assert task.modalities[1].dicom == shipped.modalities[1].dicom


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert done.exit_code == code, f"{done.output} {done.exception!r}"
    return done.output


def test_the_papers_brain_task_from_plan_to_report_in_its_own_layout(tmp_path: Path) -> None:
    """Phantoms written as BraTS 2018: folders of HGG, its file names, and 4 for enhancing tumour."""
    spec = load_task(ROOT / "apps" / "brats_mr")
    for number in range(3):
        case = make_case(spec, 0, number, size=16)
        name = f"Brats18_TCIA{number:02d}_1"
        folder = tmp_path / "MICCAI_BraTS_2018_Data_Training" / "HGG" / name
        for modality, volume in case.images.items():
            write_image(folder / f"{name}_{modality}.nii.gz", volume)
        label = from_task_values(case.label.voxels, spec, "brats2018")
        write_label(folder / f"{name}_seg.nii.gz", label, case.label.affine)
    written = run_all(tmp_path / "MICCAI_BraTS_2018_Data_Training", "brats_mr", tmp_path, "--convention", "brats2018")
    report = (tmp_path / "report" / "report.md").read_text()
    assert "| modalities | cases | whole_tumour | tumour_core | enhancing_tumour | mean | interval |" in report
    assert "| t1+t1ce+t2+flair | 3 |" in report
    assert set(np.unique(read_label(written[0]).voxels)) <= {0, 1, 2, 4}


def test_the_papers_liver_task_from_plan_to_report(tmp_path: Path) -> None:
    """Phantoms written as arterial and portal venous CT, the phases of the paper; the other two are missing."""
    spec = load_task(ROOT / "apps" / "liver_multiphase_ct")
    for number in range(3):
        case = make_case(spec, 0, number, size=16, missing=("native", "delayed"))
        for modality, volume in case.images.items():
            write_image(tmp_path / "liver" / case.id / f"{case.id}_{modality}.nii.gz", volume)
        write_label(tmp_path / "liver" / case.id / f"{case.id}_label.nii.gz", case.label.voxels, case.label.affine)
    run_all(tmp_path / "liver", "liver_multiphase_ct", tmp_path)
    report = (tmp_path / "report" / "report.md").read_text()
    assert "| arterial+portal_venous | 3 |" in report
    assert "native+" not in report


def test_labels_of_a_test_set_are_not_measured(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(TOY)
    datalist = as_datalist(studies, test={"phantom_001", "phantom_002"})
    asked = ("--studies", datalist, "--task", tmp_path / "toy.yaml", "--memory-gb", "0.3")
    assert "Planned from 2 labelled cases" in call("plan", *asked, "--out", tmp_path / "planned.yaml")


def run_all(studies: Path, task: str, folder: Path, *more: str) -> list[Path]:
    """plan, train, evaluate, infer on the command line; the files that infer wrote."""
    planned, model = folder / "task.yaml", folder / "model.safetensors"
    printed = call("plan", "--studies", studies, "--task", task, "--out", planned, "--memory-gb", "0.3")
    assert "Planned from 3 labelled cases" in printed
    assert planned.read_text().startswith("# Planned from 3 labelled cases; every value may be changed.\n# Median size")
    again = CliRunner().invoke(app, ["plan", "--studies", str(studies), "--task", task, "--out", str(planned)])
    assert "expected a file that is not there yet" in str(again.exception)
    both = ("--studies", studies, "--task", planned)
    call("train", *both, "--out", model, "--steps", 1, "--no-validate", "--device", "cpu")
    call("evaluate", *both, "--model", model, "--out", folder / "report", "--device", "cpu")
    call("infer", *both, "--model", model, "--out", folder / "masks", "--device", "cpu", *more)
    return sorted((folder / "masks").iterdir())
