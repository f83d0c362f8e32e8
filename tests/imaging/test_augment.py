from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from maml_app.imaging.augment import Augmentation, apply, draw

PLAIN = Augmentation(np.eye(3), np.ones(2), np.zeros(2), np.ones(2), np.zeros(2), 0)


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
