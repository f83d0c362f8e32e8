from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import affine_transform

from maml_app.cases.recipe import Augment
from maml_app.imaging.augment import Augmentation, apply, draw

PLAIN = Augmentation(
    matrix=np.eye(3),
    offsets=np.zeros((2, 3)),
    warp=None,
    zoom=np.ones(2),
    gain=np.ones(2),
    shift=np.zeros(2),
    gamma=np.ones(2),
    noise=np.zeros(2),
    seed=0,
)


def cube() -> tuple[torch.Tensor, torch.Tensor]:
    """Two modalities and a label without symmetry, 20 x 16 x 12."""
    label = torch.zeros(20, 16, 12, dtype=torch.int64)
    label[12:16, 4:7, 5:9] = 1
    label[6:9, 9:12, 3:5] = 2
    return torch.stack([label.float(), label.float() * 3 + 1]), label


def test_without_change_the_centre_is_cut_out() -> None:
    images, label = cube()
    moved, moved_label = apply(images, label, (12, 10, 8), PLAIN)
    assert torch.allclose(moved, images[:, 4:16, 3:13, 2:10], atol=1e-5)
    assert torch.equal(moved_label, label[4:16, 3:13, 2:10])


def test_flips_turn_the_named_axis_of_images_and_label_alike() -> None:
    images, label = cube()
    for axis in range(3):
        signs = np.ones(3)
        signs[axis] = -1
        moved, moved_label = apply(images, label, (20, 16, 12), replace(PLAIN, matrix=np.diag(signs)))
        assert torch.allclose(moved, images.flip(axis + 1), atol=1e-5)
        assert torch.equal(moved_label, label.flip(axis))


def test_scaling_up_shows_less() -> None:
    images, label = cube()
    _, zoomed = apply(images, label, (20, 16, 12), replace(PLAIN, matrix=np.eye(3) * 0.5))
    assert zoomed.eq(1).sum() > 3 * label.eq(1).sum()


def test_rotation_moves_images_and_label_together_and_is_rigid_in_mm() -> None:
    rng = np.random.default_rng(0)
    spacing = (1.0, 1.0, 4.0)
    for _ in range(30):
        matrix = draw(rng, 2, (False, False, False), spacing).matrix
        edges = np.diag(spacing)
        in_mm = edges @ matrix @ np.linalg.inv(edges)
        scale = np.linalg.det(in_mm) ** (1 / 3)
        assert np.allclose(in_mm @ in_mm.T, np.eye(3) * scale**2, atol=1e-9)
        assert 0.8 < scale < 1.25


def test_voxels_come_from_where_the_matrix_says() -> None:
    """The patch's voxel p shows the image at matrix (p - centre) + centre, for images and label alike."""
    images, label = cube()
    patch = (14, 12, 8)
    rng = np.random.default_rng(2)
    for _ in range(10):
        matrix = draw(rng, 2, (True, True, True), (1.0, 0.8, 3.0)).matrix
        offset = (np.array(label.shape) - 1) / 2 - matrix @ ((np.array(patch) - 1) / 2)
        moved, moved_label = apply(images, label, patch, replace(PLAIN, matrix=matrix))
        for image, found in zip(images, moved, strict=True):
            expected = affine_transform(image.numpy(), matrix, offset, patch, order=1, mode="nearest")
            assert np.allclose(found.numpy(), expected, atol=1e-4)
        expected = affine_transform(label.numpy(), matrix, offset, patch, order=0, mode="nearest")
        assert (moved_label.numpy() == expected).mean() > 0.99  # halves are rounded either way


def test_a_draw_is_repeatable_and_flips_only_where_allowed() -> None:
    one = draw(np.random.default_rng(5), 3, (True, True, True), (1, 1, 1))
    two = draw(np.random.default_rng(5), 3, (True, True, True), (1, 1, 1))
    images = torch.rand(3, 10, 10, 10, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(10, 10, 10, dtype=torch.int64)
    assert torch.equal(apply(images, label, (8, 8, 8), one)[0], apply(images, label, (8, 8, 8), two)[0])
    rng = np.random.default_rng(1)
    signs = [np.linalg.det(draw(rng, 1, (False, False, False), (1, 1, 1)).matrix) > 0 for _ in range(50)]
    assert all(signs)


def test_intensity_changes_leave_the_label_alone_and_differ_by_modality() -> None:
    images, label = cube()
    chosen = replace(PLAIN, gain=np.array([2.0, 1.0]), shift=np.array([0.0, 5.0]))
    moved, moved_label = apply(images, label, (20, 16, 12), chosen)
    assert torch.allclose(moved[0], images[0] * 2, atol=1e-4)
    assert torch.allclose(moved[1], images[1] + 5, atol=1e-4)
    assert torch.equal(moved_label, label)


def test_a_misaligned_modality_moves_alone_and_by_so_many_voxels() -> None:
    images, label = cube()
    offsets = np.array([[0.0, 0, 0], [2.0, -1, 1]])
    moved, moved_label = apply(images, label, (12, 10, 8), replace(PLAIN, offsets=offsets))
    assert torch.allclose(moved[0], images[0, 4:16, 3:13, 2:10], atol=1e-5)
    assert torch.allclose(moved[1], images[1, 6:18, 2:12, 3:11], atol=1e-4)
    assert torch.equal(moved_label, label[4:16, 3:13, 2:10])


def test_a_deformation_moves_images_and_label_together() -> None:
    images, label = cube()
    same = np.zeros((3, 5, 5, 5))
    same[0], same[1] = 2.0, -1.0  # the same displacement everywhere is a shift
    moved, moved_label = apply(images, label, (12, 10, 8), replace(PLAIN, warp=same))
    assert torch.allclose(moved, images[:, 6:18, 2:12, 2:10], atol=1e-4)
    assert torch.equal(moved_label, label[6:18, 2:12, 2:10])
    bent = replace(PLAIN, warp=np.random.default_rng(0).uniform(-2, 2, (3, 5, 5, 5)))
    wavy, wavy_label = apply(images, label, (20, 16, 12), bent)
    assert not torch.equal(wavy_label, label)
    inside, outside = wavy[0][wavy_label == 1], wavy[0][wavy_label == 0]
    assert inside.mean() > 0.7 > 0.1 > outside.mean()


def test_low_resolution_blurs_one_modality_in_place() -> None:
    images, label = cube()
    moved, _ = apply(images, label, (20, 16, 12), replace(PLAIN, zoom=np.array([0.5, 1.0])))
    assert torch.allclose(moved[1], images[1], atol=1e-5)
    assert moved[0].unique().numel() > 5 * images[0].unique().numel()
    assert float((moved[0] - images[0]).abs().mean()) < 0.1


def test_what_is_switched_off_is_not_drawn_and_what_is_on_stays_in_bounds() -> None:
    rng = np.random.default_rng(0)
    plain = [draw(rng, 3, (True, True, True), (1, 1, 2)) for _ in range(20)]
    assert all(not one.offsets.any() and one.warp is None and (one.zoom == 1).all() for one in plain)
    rich = [
        draw(rng, 3, (True, True, True), (1, 1, 2), Augment(misalignment_mm=3, elastic_mm=4, low_resolution=0.3))
        for _ in range(60)
    ]
    shifted = [one for one in rich if one.offsets.any()]
    assert 15 < len(shifted) < 45
    assert all((one.offsets.any(axis=1)).sum() == 1 for one in shifted)  # one against the others
    assert max(np.abs(one.offsets * [1, 1, 2]).max() for one in rich) <= 3.0
    bent = [one.warp for one in rich if one.warp is not None]
    assert 8 < len(bent) < 35
    assert max(np.abs(one * np.array([1, 1, 2])[:, None, None, None]).max() for one in bent) <= 4.0
    assert 0.5 <= min(one.zoom.min() for one in rich) < 1
