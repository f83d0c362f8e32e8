from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maml_app.cases.spec import TaskSpec
from maml_app.imaging.check import inspect
from maml_app.imaging.files import read_image, write_image, write_label
from maml_app.imaging.volume import Volume
from maml_app.stores.folder import FolderStore


def test_a_sound_case_has_grids_a_label_and_no_problem(store: FolderStore, spec: TaskSpec) -> None:
    finding = inspect(store.case("phantom_000"), spec)
    assert set(finding.grids) == {"ct", "pet", "mr_t1"}
    assert finding.label.startswith("final-0000: organ ")
    assert finding.problems == finding.notes == ()


def apart(folder: Path) -> None:
    volume = read_image_at(folder / "pet.nii.gz")
    affine = volume.affine.copy()
    affine[:3, 3] += 5000
    write_image(folder / "pet.nii.gz", Volume(volume.voxels, affine))


def read_image_at(path: Path) -> Volume:
    from maml_app.cases.case import FileRef

    return read_image(FileRef(path))


def hundredths(folder: Path) -> None:
    volume = read_image_at(folder / "pet.nii.gz")
    write_image(folder / "pet.nii.gz", Volume(volume.voxels * 100, volume.affine))


def constant(folder: Path) -> None:
    volume = read_image_at(folder / "mr_t1.nii.gz")
    write_image(folder / "mr_t1.nii.gz", Volume(volume.voxels * 0 + 3, volume.affine))


def twice(folder: Path) -> None:
    (folder / "phantom_000_ct.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes())


def wrong_values(folder: Path) -> None:
    label = read_image_at(folder / "label.nii.gz")
    write_label(folder / "label.nii.gz", label.voxels * 0 + 7, label.affine)


def other_grid(folder: Path) -> None:
    write_label(folder / "label.nii.gz", np.ones((9, 9, 9)), np.diag([10, 10, 10, 1]))


def broken(folder: Path) -> None:
    (folder / "ct.nii.gz").write_text("x")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (apart, "pet: it does not overlap ct in space"),
        (constant, "mr_t1: every voxel is 3"),
        (twice, "ct: 2 files for ct: ct.nii.gz, phantom_000_ct.nii.gz; keep one"),
        (wrong_values, "label: .*got 7; remove them"),
        (other_grid, "label: .*expected a label on the grid of one of its images"),
        (broken, "ct: .*ct.nii.gz: expected a NIfTI file"),
    ],
)
def test_problems_are_told_in_words(store: FolderStore, studies: Path, spec: TaskSpec, damage, problem: str) -> None:  # type: ignore[no-untyped-def]
    import re

    damage(studies / "phantom_000")
    problems = inspect(store.case("phantom_000"), spec).problems
    assert any(re.search(problem, one) for one in problems), problems
    assert inspect(store.case("phantom_001"), spec).problems == ()


def test_pet_in_hundredths_is_noted(store: FolderStore, studies: Path, spec: TaskSpec) -> None:
    hundredths(studies / "phantom_000")
    finding = inspect(store.case("phantom_000"), spec)
    assert finding.problems == ()
    assert finding.notes == ("pet: read as hundredths of SUV",)
