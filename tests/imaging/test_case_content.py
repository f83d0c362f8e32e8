"""What of a case can be used: images that lie elsewhere or show nothing are left out, labels must fit them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from maml_app.cases.spec import Modality
from maml_app.imaging.check import inspect
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.plausible import implausible
from maml_app.imaging.preprocess import normalise
from maml_app.imaging.volume import Array, Volume
from maml_app.stores.folder import FolderStore
from tests.builders import SHAPE, brain, changed, codes, edit, lesion, oblique, save, shipped, tissue

BRATS = shipped("brats_mr")
VOLUMES = "final-0000: non_enhancing 1.7 ml, edema 0.8 ml, enhancing 0.6 ml"  # 12, 6 and 4 voxels of 4 x 5 x 7 mm


def shifted(mm: tuple[float, float, float]) -> Callable[[Path], None]:
    def change(affine: Array) -> Array:
        affine[:3, 3] += mm
        return affine

    return changed(change)


def turned(axes: str) -> Callable[[Path], None]:
    """The same voxels in another order of the axes."""

    def write(path: Path) -> None:
        image = nib.load(path)
        now, then = nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
        new = image.as_reoriented(nib.orientations.ornt_transform(now, then))
        save(path, np.asarray(new.dataobj), new.affine)

    return write


def written(voxels: Array, affine: Array | None = None) -> Callable[[Path], None]:
    return lambda path: (save(path, voxels, affine), None)[1]


@pytest.mark.parametrize(
    ("file", "change", "left_out"),
    [
        ("t2", turned("PIR"), ""),
        ("t2", turned("LSA"), ""),
        ("t2", shifted((3.0, -4.0, 2.0)), ""),
        ("t2", shifted((0.0, 0.0, 35.0)), "t2: only "),
        ("t1ce", shifted((0.0, 0.0, 45.0)), "t1ce: only "),  # the reference itself, and the label was drawn on it
        ("t2", shifted((0.0, 500.0, 0.0)), "t2: it does not overlap "),
        ("t2", written(np.zeros(SHAPE, np.float32)), "t2: every voxel is 0"),
        ("t2", written(np.eye(12, 10, dtype=np.float32)[:, :, None] * (np.arange(8) == 3)), ""),
        ("t2", lambda path: edit(path, codes(0, 0)), "t2: "),
        ("t2", lambda path: path.write_text("x"), "t2: "),
    ],
)
def test_one_bad_image_costs_only_itself(
    tmp_path: Path, file: str, change: Callable[[Path], object], left_out: str
) -> None:
    change(brain(tmp_path / "P", lesion()) / f"{file}.nii.gz")
    finding = inspect(FolderStore(tmp_path, BRATS).case("P"), BRATS)
    assert [problem[: len(left_out)] for problem in finding.problems if left_out] == [left_out] * bool(left_out)
    assert len(finding.grids) == 4 - bool(left_out)
    assert finding.label == VOLUMES


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (turned("PIR"), ""),
        (changed(lambda affine: affine * (1 + 1e-6)), ""),
        (changed(lambda affine: np.eye(4)), "expected the label where t1ce lies, .* got as many voxels elsewhere"),
        (shifted((8.0, 0.0, 0.0)), r"corners up to 8\.0 mm apart; write the label with the image's affine"),
        (changed(lambda affine: affine @ np.diag([-1.0, 1, 1, 1])), "got as many voxels elsewhere"),
        (lambda path: edit(path, codes(0, 0)), "got neither: left and right cannot be told"),
        (written(np.ones((5, 5, 5), np.uint8)), "expected a label on the grid of one of its images"),
        (written(lesion().astype(np.float32) * 0.87), "expected whole numbers from 0 to 255"),
        (written(lesion().astype(np.int16) - 1), "expected whole numbers from 0 to 255"),
        (written(lesion().astype(np.int16) * 1001), "expected whole numbers from 0 to 255"),
        (written(lesion() * 85), "expected label values of .* got"),
        (written((tissue(300) > 0).astype(np.uint8)), "is it a mask of the brain, or of tissues"),
        (written((tissue(300) > 0).astype(np.uint8) * np.uint8(1) + (tissue(300) > 300)), "is it a mask of the brain"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[[Path], object], reason: str) -> None:
    change(brain(tmp_path / "P", lesion()) / "label.nii.gz")
    finding = inspect(FolderStore(tmp_path, BRATS).case("P"), BRATS)
    if reason:
        assert finding.label == "unusable"
        assert re.search(reason, finding.refused), finding.refused
    else:
        assert (finding.label, finding.refused) == (VOLUMES, "")


def test_a_label_on_an_image_that_lies_elsewhere_is_told_of_that(tmp_path: Path) -> None:
    case = brain(tmp_path / "P", lesion())
    for name in ("t2", "label"):
        shifted((0.0, 0.0, 500.0))(case / f"{name}.nii.gz")
    finding = inspect(FolderStore(tmp_path, BRATS).case("P"), BRATS)
    assert "it is drawn on t2, which cannot be used" in finding.refused


def test_a_label_in_another_order_of_axes_lies_where_the_image_does(tmp_path: Path) -> None:
    turned("PIR")(brain(tmp_path / "P", lesion()) / "label.nii.gz")
    label = read_case_label(FolderStore(tmp_path, BRATS).case("P"), BRATS)
    on_image = resample_label(label.voxels, label.grid, Volume(tissue(300), oblique()).grid)
    assert (on_image == lesion()).all()


CT = Modality(name="ct", kind="CT", files=("ct",), window=(-160, 240))
PET = Modality(name="pet", kind="PET", files=("pet",))
MR = Modality(name="mr", kind="MR", files=("mr",))


def hounsfield() -> Array:
    """Air, fat, soft tissue and bone."""
    body = np.full((16, 16, 16), -1000.0, np.float32)
    body[2:14, 2:14, 2:14] = -100
    body[4:12, 4:12, 2:14] = 40
    body[7:9, 7:9, 2:14] = 700
    return body


def suv() -> Array:
    values = np.random.default_rng(1).gamma(2, 0.4, (16, 16, 16)).astype(np.float32)
    values[6:9, 6:8, 5:9] = 9
    return values


@pytest.mark.parametrize(
    ("voxels", "modality", "reason"),
    [
        (hounsfield(), CT, ""),
        (hounsfield()[4:12, 4:12, 2:14], CT, "without air or fat"),
        (hounsfield() + 1024, CT, "expected CT in Hounsfield units"),
        ((hounsfield() + 1000) / 2000, CT, "expected CT in Hounsfield units"),
        (hounsfield() * 0 - 1000, CT, "every voxel is -1000"),
        (suv(), PET, ""),
        (suv() * 100, PET, ""),
        (suv() * 5000, PET, "expected PET in SUV"),
        (suv() / 10, PET, "it seems to be scaled to 0..1"),
        (suv() - 2, PET, "of voxels below 0"),
        (tissue(300), MR, ""),
        ((tissue(300) - 200) / 90, MR, ""),
        (tissue(300) * 0 + 7, MR, "every voxel is 7"),
    ],
)
def test_values_that_cannot_be_of_a_modality(voxels: Array, modality: Modality, reason: str) -> None:
    told = implausible(voxels, modality)
    assert reason in told
    assert bool(told) == bool(reason)


def test_a_few_hot_voxels_do_not_darken_an_mr_image() -> None:
    clean = tissue(300)
    hot = clean.copy()
    hot[5, 5, 5:7] = 30_000
    normal, _ = normalise(Volume(clean, oblique()), MR)
    disturbed, _ = normalise(Volume(hot, oblique()), MR)
    others = clean == hot
    assert np.abs(normal.numpy() - disturbed.numpy())[others].max() < 0.4
