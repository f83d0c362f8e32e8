"""What is measured of labelled cases, against cases of known size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maml_app.cases.case import Case, FileRef, LabelRef
from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.files import write_image, write_label
from maml_app.imaging.fingerprint import take_fingerprint
from maml_app.imaging.volume import Volume

# axes stored as S, R, A (obliquely), 4 x 1 x 2 mm
TURN = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])


def oblique() -> np.ndarray:  # type: ignore[type-arg]
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.array([[0.0, 1, 0], [0, 0, 2], [4, 0, 0]])
    return affine


def stored(folder: Path, hu: float, missing: bool = False) -> Case:
    """30 x 40 x 20 voxels with two parts of foreground, 8 and 27 voxels, and a CT of `hu` there, -50 elsewhere."""
    label = np.zeros((30, 40, 20), dtype=np.uint8)
    label[4:6, 4:6, 4:6], label[10:13, 20:23, 10:13] = 1, 2
    folder.mkdir(parents=True)
    values = np.where(label > 0, hu, -50.0).astype(np.float32)
    values[:, 25:] = -1000  # air, 15 mm of it: what a CT alone shows ends there, and a margin of 10 mm
    write_image(folder / "ct.nii.gz", Volume(values, oblique()))
    write_image(folder / "pet.nii.gz", Volume(np.where(label > 0, 3.0, 0.5), oblique()))
    write_label(folder / "label.nii.gz", label, oblique())
    names = ("ct",) if missing else ("ct", "pet")
    images = {name: FileRef(folder / f"{name}.nii.gz") for name in names}
    return Case(folder.name, images, (LabelRef(folder / "label.nii.gz", 0),))


def test_it_reads_sizes_windows_and_lesions_off_the_cases(tmp_path: Path, spec: TaskSpec) -> None:
    cases = [stored(tmp_path / "a", 40.0), stored(tmp_path / "b", 60.0, missing=True), Case("c", {})]
    found = take_fingerprint(cases, spec)
    assert found.cases == 2
    # in the order R, A, S, whatever the order in the file
    assert found.median_spacing_mm == pytest.approx([1, 2, 4])
    assert found.median_size_mm == pytest.approx([37.5, 40, 120], abs=4)
    assert found.median_size_mm[0] < 40
    low, high = found.windows_hu["ct"]
    assert 25 <= low <= 30
    assert 70 <= high <= 75  # 40 to 60, and some margin
    assert set(found.windows_hu) == {"ct"}
    assert found.lesions_ml == pytest.approx([8 * 0.008] * 2 + [27 * 0.008] * 2, abs=1e-3)
    assert found.missing == {"ct": 0, "pet": 1, "mr_t1": 2}


def test_without_a_label_there_is_nothing_to_measure(spec: TaskSpec) -> None:
    with pytest.raises(LabelError, match="expected at least one case with a final label, got none among 1 cases"):
        take_fingerprint([Case("c", {})], spec)
