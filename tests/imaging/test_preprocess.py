from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maml_app.cases.case import Case, FileRef, LabelRef
from maml_app.cases.spec import Modality, TaskSpec, load_task
from maml_app.errors import LabelError
from maml_app.imaging.files import read_image, read_label, write_image, write_label
from maml_app.imaging.geometry import network_grid, restore_label
from maml_app.imaging.labels import from_task_values, prepare_label, to_task_values
from maml_app.imaging.plausible import suv_scale
from maml_app.imaging.preprocess import normalise, prepare
from maml_app.imaging.volume import Array, Volume
from maml_app.stores.choice import shipped_tasks
from maml_app.stores.folder import FolderStore
from tests.conftest import real
from tests.imaging.shapes import key_shape, oblique, overlap, places_mm

CT = Modality(name="ct", kind="CT", files=("ct",), window=(-100, 300))
PET = Modality(name="pet", kind="PET", files=("pet",))
MR = Modality(name="mr", kind="MR", files=("mr",))


def volume(values: object) -> Volume:
    return Volume(np.array(values, np.float32).reshape(2, 2, -1), np.eye(4))


def test_ct_window_maps_to_minus_one_and_one() -> None:
    values, outside = normalise(volume([-1000, -100, 100, 300, 3000, 0, 200, 50]), CT)
    assert values.ravel().tolist() == pytest.approx([-1, -1, 0, 1, 1, -0.5, 0.5, -0.25])
    assert outside == -1


def test_pet_is_the_logarithm_of_suv_in_either_unit() -> None:
    suv = np.linspace(0, 20, 40)
    one, outside = normalise(volume(suv), PET)
    two, _ = normalise(volume(suv * 100), PET)
    assert one.ravel().tolist() == pytest.approx((np.log1p(suv) - 1).tolist(), abs=1e-5)
    assert two.ravel().tolist() == pytest.approx(one.ravel().tolist(), abs=1e-4)
    assert outside == -1
    assert suv_scale(suv) == 1


def test_becquerels_are_no_suv() -> None:
    with pytest.raises(ValueError, match=r"expected PET in SUV .* got a 99th percentile of 9900; convert Bq/ml"):
        suv_scale(np.linspace(0, 10_000, 101))


def test_mr_is_a_z_score_of_what_is_not_zero() -> None:
    values, outside = normalise(volume([0, 0, 0, 0, 1, 2, 3, 4]), MR)
    body = values.ravel()[4:]
    assert float(body.mean()) == pytest.approx(0, abs=1e-6)
    assert float(body.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert outside == pytest.approx(float(values.ravel()[0]))
    constant, _ = normalise(volume([7] * 8), MR)
    assert torch.isfinite(constant).all()


@pytest.fixture
def oblique_case(tmp_path: Path) -> Case:
    """Three modalities on three oblique grids, all showing the key shape, and its label on the PET's."""
    images = {}
    for index, (name, low, high) in enumerate((("ct", -100.0, 200.0), ("pet", 0.5, 9.0), ("mr_t1", 50.0, 600.0))):
        shape = ((60, 56, 40), (40, 44, 30), (64, 48, 36))[index]
        spacing = ((1.5, 1.6, 2.4), (2.4, 2.2, 3.2), (1.4, 2.0, 2.6))[index]
        grid = oblique(shape, spacing, seed=index + 20)
        inside = key_shape(places_mm(grid))
        path = tmp_path / f"{name}.nii.gz"
        write_image(path, Volume(np.where(inside, high, low), grid.affine))
        images[name] = FileRef(path)
    pet = read_image(images["pet"]).grid
    write_label(tmp_path / "label.nii.gz", key_shape(places_mm(pet)).astype(np.uint8), pet.affine)
    return Case("a", images, (LabelRef(tmp_path / "label.nii.gz", 0),))


@pytest.fixture
def fine(spec: TaskSpec) -> TaskSpec:
    spacing = type(spec.preprocess).model_validate({"spacing_mm": (1.5, 1.5, 1.5)})
    return spec.model_copy(update={"preprocess": spacing})


def halfway(image: torch.Tensor) -> Array:
    """The object: above the middle between background (the median) and the brightest."""
    return np.asarray((image > (image.median() + image.max()) / 2).numpy())


def test_modalities_and_label_meet_in_one_place(oblique_case: Case, fine: TaskSpec) -> None:
    prepared = prepare(oblique_case, fine)
    assert prepared.presence.tolist() == [True, True, True]
    truth = key_shape(places_mm(prepared.grid))
    for image in prepared.images:
        assert overlap(halfway(image), truth) > 0.9
    assert overlap(prepare_label(oblique_case, fine, prepared.grid) == 1, truth) > 0.9


@pytest.mark.parametrize("asked", ["ct", "pet", "mr_t1"])
def test_an_answer_lies_in_place_on_any_modality(oblique_case: Case, fine: TaskSpec, asked: str) -> None:
    prepared = prepare(oblique_case, fine)
    mask = torch.from_numpy(key_shape(places_mm(prepared.grid)).astype(np.float32))
    grid = read_image(oblique_case.images[asked]).grid
    answer = restore_label(torch.stack([1 - mask, mask, mask * 0]), prepared.grid, grid)
    assert overlap(answer == 1, key_shape(places_mm(grid))) > 0.9


def test_absent_modalities_are_zero_and_the_frame_moves_on(oblique_case: Case, fine: TaskSpec) -> None:
    less = replace(oblique_case, images={"mr_t1": oblique_case.images["mr_t1"]})
    prepared = prepare(less, fine)
    assert prepared.presence.tolist() == [False, False, True]
    assert not prepared.images[:2].any()
    assert overlap(halfway(prepared.images[2]), key_shape(places_mm(prepared.grid))) > 0.9


def test_air_that_no_image_fills_is_left_out(tmp_path: Path, fine: TaskSpec) -> None:
    images, bodies = {}, []
    for index, (name, air, flesh) in enumerate((("ct", -1000.0, 40.0), ("pet", 0.0, 1.0), ("mr_t1", 0.0, 300.0))):
        grid = oblique(((90, 80, 40), (60, 56, 36), (80, 70, 40))[index], (1.5 + index / 2, 1.8, 3.0), seed=index + 30)
        x, y, z = np.moveaxis(places_mm(grid), -1, 0)
        body = (x / 30) ** 2 + (y / 24) ** 2 + (z / 34) ** 2 < 1
        images[name] = FileRef(tmp_path / f"{name}.nii.gz")
        tumour = key_shape(places_mm(grid)) & body
        write_image(images[name].path, Volume(np.where(tumour, 3 * flesh, np.where(body, flesh, air)), grid.affine))
        bodies.append((grid, tumour, body))
    case = Case("a", images)
    prepared = prepare(case, fine)
    for name, (grid, tumour, body) in zip(images, bodies, strict=True):
        whole = prepare(replace(case, images={name: images[name]}), fine)
        assert np.prod(prepared.grid.shape) < 0.6 * np.prod(network_grid(grid, (1.5, 1.5, 1.5)).shape)
        # what is left lies where it lay: on the image's own grid, all of the body and the tumour in it
        image = whole.images[list(images).index(name)]
        for share, truth in ((0.1, body), (0.75, tumour)):
            mask = (image > image.min() + share * (image.max() - image.min())).float()
            chances = torch.stack([1 - mask, mask])
            assert overlap(restore_label(chances, whole.grid, grid) == 1, truth) > 0.9
        index = np.linalg.inv(prepared.grid.affine) @ np.c_[places_mm(grid)[body], np.ones(body.sum())].T
        assert (index[:3].T > 4).all()  # a margin
        assert (np.array(prepared.grid.shape) - 5 > index[:3].T).all()
    metal = (fine.modalities[0].model_copy(update={"window": (1000.0, 3000.0)}), *fine.modalities[1:])
    nothing = prepare(replace(case, images={"ct": images["ct"]}), fine.model_copy(update={"modalities": metal}))
    assert nothing.grid.same_as(network_grid(bodies[0][0], (1.5, 1.5, 1.5)))


def test_images_apart_are_left_out_with_the_reason(oblique_case: Case, fine: TaskSpec) -> None:
    pet = read_image(oblique_case.images["pet"])
    pet.affine[:3, 3] += 900
    write_image(oblique_case.images["pet"].path, pet)
    prepared = prepare(oblique_case, fine)
    assert prepared.used == ("ct", "mr_t1")
    assert not prepared.images[1].any()
    assert prepared.left_out == {"pet": "it does not overlap ct in space: are both from one examination?"}


def test_pet_that_is_no_suv_is_left_out_with_the_remedy(oblique_case: Case, fine: TaskSpec) -> None:
    pet = read_image(oblique_case.images["pet"])
    write_image(oblique_case.images["pet"].path, Volume(pet.voxels * 10_000, pet.affine))
    prepared = prepare(oblique_case, fine)
    assert prepared.presence.tolist() == [True, False, True]
    assert "expected PET in SUV" in prepared.left_out["pet"]


def test_conventions_map_in_and_out() -> None:
    brats = load_task(shipped_tasks()["brats_mr"])
    theirs = volume([0, 1, 2, 4, 4, 0, 1, 2])
    ours = to_task_values(Volume(theirs.voxels.astype(np.uint8), theirs.affine), brats, "x")
    assert ours.voxels.ravel().tolist() == [0, 1, 2, 3, 3, 0, 1, 2]
    assert from_task_values(ours.voxels, brats, "brats2018").ravel().tolist() == [0, 1, 2, 4, 4, 0, 1, 2]
    same = Volume(volume([0, 1, 2, 3, 0, 0, 0, 0]).voxels.astype(np.uint8), np.eye(4))
    assert (to_task_values(same, brats, "x").voxels == same.voxels).all()
    mixed = Volume(volume([0, 3, 4, 0, 0, 0, 0, 0]).voxels.astype(np.uint8), np.eye(4))
    with pytest.raises(
        LabelError,
        match=r"case x, label sent: expected label values of .*non_enhancing.* or brats2018: .*, got \[3, 4\]",
    ):
        to_task_values(mixed, brats, "x")
    with pytest.raises(
        LabelError, match=r"expected a label convention of \['task', 'brats2018', .*\], got 'brats1999'"
    ):
        from_task_values(ours.voxels, brats, "brats1999")


def test_real_masks_on_three_grids_agree_after_the_pipeline() -> None:
    """The expert's contour, drawn once and stored on three grids, is one place in space."""
    folder = real("sts_native")
    sarcoma = load_task(shipped_tasks()["sarcoma_pet_ct_mr"])
    for case in FolderStore(folder, sarcoma).cases():
        ct = read_label(folder / case.id / "label_ct.nii.gz")
        mr = read_label(folder / case.id / "label_mr_t1.nii.gz")
        mask = torch.from_numpy((ct.voxels > 0).astype(np.float32))
        moved = restore_label(torch.stack([1 - mask, mask]), ct.grid, mr.grid)
        assert overlap(moved > 0, mr.voxels > 0) > 0.97
        prepared = prepare(case, sarcoma)
        assert torch.isfinite(prepared.images).all()
        assert prepare_label(case, sarcoma, prepared.grid).any()
