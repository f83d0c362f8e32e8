"""Augmentation. What is random is drawn first, as plain numbers; applying it is deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from maml_app.imaging.volume import Array

MARGIN = 1.25  # patches are cut so much larger before they are turned and scaled, so that no empty corners appear
CONTROLS = 5  # points along each axis that a deformation is drawn at


@dataclass(frozen=True)
class Augmentation:
    """One draw. Spatial values are shared by all modalities, intensity values have one entry a modality.

    Attributes:
        matrix: (3, 3) rotation, scaling and flips in voxels of the patch, X, Y, Z.
        offsets: (M, 3) shift of each modality against the label, voxels.
        warp: (3, N, N, N) smooth displacement on a coarse grid over the patch, voxels; None for no deformation.
        zoom: (M,) the resolution that is left of each modality, 1 for all of it.
        gain, shift, gamma, noise: (M,) each.
        seed: for the noise.
    """

    matrix: Array
    offsets: Array
    warp: Array | None
    zoom: Array
    gain: Array
    shift: Array
    gamma: Array
    noise: Array
    seed: int


def draw(
    rng: np.random.Generator,
    modalities: int,
    flips: Sequence[bool],
    spacing_mm: Sequence[float],
    misalignment_mm: float = 0.0,
    elastic_mm: float = 0.0,
    low_resolution: float = 0.0,
) -> Augmentation:
    """Draw flips, a rotation (about 15 degrees at most, in mm so that it stays rigid) and scaling, and intensities.

    Args:
        misalignment_mm: in half of the draws one modality is shifted by up to so much along each axis.
        elastic_mm: in a third of the draws all are deformed alike, by up to so much along each axis.
        low_resolution: how likely a modality is to lose resolution, down to half.
    """
    signs = np.where(np.array(flips) & (rng.random(3) < 0.5), -1.0, 1.0)
    angles = rng.uniform(-0.26, 0.26, 3) * (rng.random() < 0.5)
    scale = np.exp(rng.uniform(-0.18, 0.18)) if rng.random() < 0.5 else 1.0
    edges = np.array(spacing_mm)
    matrix = np.diag(1 / edges) @ _rotation(angles) @ np.diag(edges) @ np.diag(signs * scale)
    intensity = {
        "gain": rng.uniform(0.8, 1.2, modalities),
        "shift": rng.uniform(-0.15, 0.15, modalities),
        "gamma": np.exp(rng.uniform(-0.25, 0.25, modalities) * (rng.random(modalities) < 0.5)),
        "noise": rng.uniform(0, 0.1, modalities) * (rng.random(modalities) < 0.3),
        "seed": int(rng.integers(2**31)),
    }
    offsets = np.zeros((modalities, 3))
    if misalignment_mm and modalities > 1 and rng.random() < 0.5:
        offsets[rng.integers(modalities)] = rng.uniform(-misalignment_mm, misalignment_mm, 3) / edges
    warp = None
    if elastic_mm and rng.random() < 1 / 3:
        warp = rng.uniform(-elastic_mm, elastic_mm, (3, *[CONTROLS] * 3)) / edges[:, None, None, None]
    zoom = np.where(rng.random(modalities) < low_resolution, rng.uniform(0.5, 1, modalities), 1.0)
    return Augmentation(matrix=matrix, offsets=offsets, warp=warp, zoom=zoom, **intensity)


def _rotation(angles: Array) -> Array:
    """Rotations about X, Y, Z in turn, radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        one, two = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def apply(
    images: torch.Tensor, label: torch.Tensor, patch: Sequence[int], chosen: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn, scale, flip and deform about the centre, cut to `patch`, and change intensities.

    images (M, X, Y, Z) float, label (X, Y, Z) integer, both at least as large as the patch; the images linearly, the
    label by nearest neighbour. Returns the same at the patch's size.
    """
    size = torch.tensor(images.shape[1:], dtype=torch.float32)
    goal = torch.tensor(list(patch), dtype=torch.float32)
    # patch voxel -> image voxel, both from their centres; grid_sample wants it in halves of the image, Z first
    matrix = torch.from_numpy(chosen.matrix).float() * goal / size[:, None]
    theta = torch.zeros(1, 3, 4)
    theta[0, :, :3] = matrix.flip(0).flip(1)
    place = F.affine_grid(theta, [1, 1, *patch], align_corners=False)
    if chosen.warp is not None:
        smooth = F.interpolate(
            torch.from_numpy(chosen.warp).float()[None], size=list(patch), mode="trilinear", align_corners=True
        )
        place = place + (smooth * (2 / size)[:, None, None, None]).flip(1).permute(0, 2, 3, 4, 1)
    apart = torch.from_numpy(chosen.offsets).float() * 2 / size
    # one look-up for all modalities that lie where the label lies
    together = F.grid_sample(images[None], place, padding_mode="border", align_corners=False)[0]
    for index in np.flatnonzero(chosen.offsets.any(axis=1)):
        moved_place = place + apart[index].flip(0)
        one = images[None, index : index + 1]
        together[index] = F.grid_sample(one, moved_place, padding_mode="border", align_corners=False)[0, 0]
    moved = F.grid_sample(label[None, None].float(), place, mode="nearest", padding_mode="border", align_corners=False)
    return _intensity(_blurred(together, chosen.zoom), chosen), moved[0, 0].round().to(label.dtype)


def _blurred(images: torch.Tensor, zoom: Array) -> torch.Tensor:
    for index in np.flatnonzero(zoom < 1):
        one = images[None, index : index + 1]
        small = F.interpolate(one, scale_factor=float(zoom[index]), mode="nearest-exact")
        images[index] = F.interpolate(small, size=images.shape[1:], mode="trilinear")[0, 0]
    return images


def _intensity(images: torch.Tensor, chosen: Augmentation) -> torch.Tensor:
    def column(values: Array) -> torch.Tensor:
        return torch.from_numpy(values).float()[:, None, None, None]

    low = images.amin(dim=(1, 2, 3), keepdim=True)
    span = (images.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=1e-6)
    images = ((images - low) / span) ** column(chosen.gamma) * span + low
    images = images * column(chosen.gain) + column(chosen.shift)
    generator = torch.Generator().manual_seed(chosen.seed)
    return images + column(chosen.noise) * torch.randn(images.shape, generator=generator)
