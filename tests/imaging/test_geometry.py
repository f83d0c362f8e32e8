"""Voxels between grids: against analytic shapes and against SimpleITK, on oblique anisotropic grids."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from maml_app.errors import GridError
from maml_app.imaging import geometry
from maml_app.imaging.geometry import network_grid, resample, resample_label, restore_label
from maml_app.imaging.volume import Array, Grid
from tests.imaging.shapes import key_shape, oblique, overlap, places_mm

SOURCE = oblique((60, 52, 30), (1.3, 1.6, 3.1), seed=1)
TARGET = oblique((41, 70, 50), (2.2, 1.2, 1.7), seed=2)


def to_sitk(voxels: Array, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.astype(np.float32).T))
    lps = np.diag([-1, -1, 1, 1]) @ grid.affine
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection((lps[:3, :3] / grid.spacing_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def test_linear_resampling_agrees_with_simpleitk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "SLAB_VOXELS", 5 * 70 * 50)  # several slabs
    voxels = np.random.default_rng(0).normal(size=SOURCE.shape).astype(np.float32)
    ours = torch.zeros(TARGET.shape)
    for slab, values in geometry.resample_slabs(torch.from_numpy(voxels)[None], SOURCE, TARGET, fill=-7.0):
        ours[slab] = values[0]
    frame = to_sitk(np.zeros(TARGET.shape), TARGET)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(to_sitk(voxels, SOURCE), frame, sitk.Transform(), sitk.sitkLinear, -7.0)
    ).T
    # where both are well inside; the outermost half voxel is handled differently
    index = places_mm(TARGET) - SOURCE.affine[:3, 3]
    index = index @ np.linalg.inv(SOURCE.affine[:3, :3]).T
    inside = ((index > 0) & (index < np.array(SOURCE.shape) - 1)).all(axis=-1)
    outside = ((index < -0.5) | (index > np.array(SOURCE.shape) - 0.5)).any(axis=-1)
    assert inside.sum() > 20_000
    assert np.abs(ours.numpy() - theirs)[inside].max() < 2e-3
    assert outside.sum() > 1000
    assert (ours.numpy()[outside] == -7).all()


def test_a_linear_ramp_in_space_stays_what_it_is() -> None:
    slope = np.array([0.3, -0.7, 1.1])
    ramp = torch.from_numpy(places_mm(SOURCE) @ slope).float()
    inner = Grid((12, 10, 8), oblique((12, 10, 8), (1.1, 1.3, 1.9), seed=3).affine)
    result = resample(ramp, SOURCE, inner)
    assert np.abs(result.numpy() - places_mm(inner) @ slope).max() < 1e-3


def test_coarser_images_are_averaged_in_place() -> None:
    slope = np.array([0.3, -0.7, 1.1])
    ramp = torch.from_numpy(places_mm(SOURCE) @ slope).float()
    coarse = Grid((6, 5, 4), oblique((6, 5, 4), (5.0, 5.0, 6.5), seed=3).affine)
    result = resample(ramp, SOURCE, coarse)
    assert np.abs(result.numpy() - places_mm(coarse) @ slope).max() < 1e-2
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=SOURCE.shape)).float()
    assert resample(noise, SOURCE, coarse).std() < 0.5


@pytest.mark.parametrize("seed", range(6))
def test_an_asymmetric_label_lands_in_its_place(seed: int) -> None:
    source = oblique((70, 60, 44), (1.2, 1.5, 2.4), seed=seed)
    target = oblique((50, 66, 60), (1.9, 1.4, 1.6), seed=seed + 50)
    truth = key_shape(places_mm(source)).astype(np.uint8) * 3
    moved = resample_label(truth, source, target)
    assert set(np.unique(moved)) == {0, 3}
    assert overlap(moved == 3, key_shape(places_mm(target))) > 0.93
    # the object has no symmetry: any flip or swap of axes would show
    for axis in range(3):
        assert overlap(np.flip(moved, axis) == 3, key_shape(places_mm(target))) < 0.85


def test_touching_labels_leave_no_gap_between_them() -> None:
    source = oblique((50, 50, 40), (1.5, 1.5, 2.5), seed=4)
    target = oblique((60, 60, 60), (1.3, 1.3, 1.3), seed=5)
    places = places_mm(source)
    label = np.where(np.linalg.norm(places, axis=-1) < 25, np.where(places[..., 0] > 0, 1, 2), 0).astype(np.uint8)
    moved = resample_label(label, source, target)
    inner = np.linalg.norm(places_mm(target), axis=-1) < 20
    assert (moved[inner] > 0).all()


def test_labels_outside_the_source_are_background() -> None:
    source = Grid((4, 4, 4), np.eye(4))
    target = Grid((8, 4, 4), np.eye(4))
    moved = resample_label(np.full((4, 4, 4), 1, np.uint8), source, target)
    assert moved[:4].all()
    assert not moved[4:].any()


@pytest.mark.parametrize("seed", range(6))
def test_forth_and_back_gives_the_asked_grid_its_mask(seed: int) -> None:
    asked = oblique((70, 60, 30), (1.2, 1.5, 3.4), seed=seed)
    truth = key_shape(places_mm(asked)).astype(np.uint8)
    grid = network_grid(asked, (1.5, 1.5, 1.5))
    small = torch.from_numpy(resample_label(truth, asked, grid))
    chances = torch.nn.functional.one_hot(small.long(), 2).permute(3, 0, 1, 2).float()
    back = restore_label(chances, grid, asked)
    assert back.shape == asked.shape
    assert overlap(back == 1, truth == 1) > 0.95


def test_restoring_onto_another_modality_keeps_the_place() -> None:
    frame, asked = oblique((64, 64, 40), (1.4, 1.4, 2.2), seed=7), oblique((30, 44, 36), (2.9, 2.1, 2.5), seed=8)
    grid = network_grid(frame, (1.5, 1.5, 2.0))
    mask = torch.from_numpy(key_shape(places_mm(grid)).astype(np.float32))
    back = restore_label(torch.stack([1 - mask, mask]), grid, asked)
    assert overlap(back == 1, key_shape(places_mm(asked))) > 0.9


def test_restoring_nothing_or_beside_the_image_gives_background() -> None:
    grid = Grid((6, 6, 6), np.eye(4))
    empty = torch.stack([torch.ones(6, 6, 6), torch.zeros(6, 6, 6)])
    assert not restore_label(empty, grid, grid).any()
    full = 1 - empty
    away = np.eye(4)
    away[:3, 3] = 100
    assert not restore_label(full, grid, Grid((6, 6, 6), away)).any()
    assert restore_label(full, grid, grid).all()


def test_the_network_grid_is_the_frame_in_other_voxels() -> None:
    frame = oblique((70, 60, 30), (1.2, 1.5, 3.4), seed=9)
    grid = network_grid(frame, (2.0, 2.0, 2.0))
    assert nib.orientations.aff2axcodes(grid.affine) == ("R", "A", "S")
    assert np.allclose(grid.spacing_mm, 2)
    # the same block of space, up to half a voxel at the far sides
    low, high = frame.corners_mm().min(axis=0), frame.corners_mm().max(axis=0)
    assert np.abs(grid.corners_mm().min(axis=0) - low).max() < 2
    assert np.abs(grid.corners_mm().max(axis=0) - high).max() < 2
    # axes stay parallel to the frame's
    cosines = np.abs((frame.affine[:3, :3] / frame.spacing_mm).T @ (grid.affine[:3, :3] / 2))
    assert np.allclose(np.sort(cosines.ravel())[-3:], 1)


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((2, 2, 2), np.zeros((4, 4)), "can be inverted"),
        ((2, 2, 2), np.diag([1, 1, 0, 1]), "can be inverted"),
        ((2, 2, 2), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "can be inverted"),
        ((2, 2, 2), np.full((4, 4), np.nan), "finite 4 x 4 affine"),
        ((2, 0, 2), np.eye(4), "three positive sizes"),
    ],
)
def test_impossible_grids_are_refused(shape: tuple[int, int, int], affine: Array, message: str) -> None:
    with pytest.raises(GridError, match=message):
        Grid(shape, affine)


def test_tiny_but_regular_voxels_are_fine() -> None:
    Grid((4, 4, 4), np.diag([0.01, 0.01, 0.05, 1]))


def test_overlap_and_sameness() -> None:
    near = np.eye(4)
    near[:3, 3] = [3.2, 0, 0]
    far = np.eye(4)
    far[:3, 3] = [40, 0, 0]
    grid = Grid((4, 4, 4), np.eye(4))
    assert grid.overlaps(Grid((4, 4, 4), near))
    assert not grid.overlaps(Grid((4, 4, 4), far))
    assert not grid.same_as(Grid((4, 4, 4), near))
    assert grid.same_as(Grid((4, 4, 4), np.eye(4) + 1e-4))
    assert not grid.same_as(Grid((4, 4, 5), np.eye(4)))


def everywhere(chances: torch.Tensor, source: Grid, target: Grid) -> Array:
    """The largest of classes, each interpolated at every voxel of the target: what `restore_label` makes shorter."""
    result = np.zeros(target.shape, np.uint8)
    for slab, values in geometry.resample_slabs(chances, source, target):
        result[slab] = values.argmax(dim=0).numpy()
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("aligned", [False, True])
def test_what_the_corners_agree_on_is_as_if_all_was_interpolated(
    seed: int, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "SLAB_VOXELS", 9 * 70 * 60)
    frame = oblique((70, 60, 44), (1.2, 1.5, 2.4), seed=seed)
    source = network_grid(frame, (2.5, 3.0, 3.5))
    target = frame if aligned else oblique((66, 58, 40), (1.5, 1.4, 2.0), seed=seed + 20)
    noise = torch.randn(4, *source.shape, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool3d(noise, 5, 1, 2)
    for sharpness in (1.0, 30.0, 1000.0):
        for dtype in (torch.float32, torch.float16):  # probabilities are kept in half precision, where ties are common
            chances = torch.softmax(smooth * sharpness, dim=0).to(dtype)
            found = restore_label(chances, source, target)
            assert len(np.unique(found)) == 4
            np.testing.assert_array_equal(found, everywhere(chances, source, target))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("coarse", [False, True])
def test_a_label_of_many_values_is_as_if_all_was_interpolated(seed: int, coarse: bool) -> None:
    source = oblique((50, 44, 30), (1.2, 1.5, 2.4), seed=seed)
    target = oblique((20, 22, 24), (3.1, 2.4, 2.6), seed=seed) if coarse else oblique((60, 64, 50), (1, 1.1, 1.2), seed)
    noise = torch.randn(5, *source.shape, generator=torch.Generator().manual_seed(seed))
    values = np.array([0, 1, 7, 254, 255], np.uint8)
    label = values[torch.nn.functional.avg_pool3d(noise, 5, 1, 2).argmax(dim=0).numpy()]
    expected, best = np.zeros(target.shape, np.uint8), np.full(target.shape, -1.0)
    for value in values:
        share = torch.from_numpy((label == value).astype(np.float32))
        pooled, grid = geometry._pooled(share, source, target), geometry._pooled_grid(source, target)
        for slab, shares in geometry.resample_slabs(pooled[None], grid, target, fill=float(value == 0)):
            wins = shares[0].numpy() > best[slab]
            expected[slab][wins], best[slab][wins] = value, shares[0].numpy()[wins]
    moved = resample_label(label, source, target)
    assert len(np.unique(moved)) == 5
    np.testing.assert_array_equal(moved, expected)
