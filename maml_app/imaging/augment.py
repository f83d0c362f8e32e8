"""Augmentation. What is random is drawn first, as plain numbers; applying it is deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import AdjustContrast, RandGaussianNoise, ScaleIntensity, ShiftIntensity
from monai.transforms.spatial.array import AffineGrid, RandSimulateLowResolution, Resample, Resize
from monai.transforms.utils import create_rotate
from monai.utils.type_conversion import convert_to_tensor

from maml_app.cases.recipe import Augment
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
    extent: Augment = Augment(),  # noqa: B008 - frozen
) -> Augmentation:
    """Draw flips, a rotation (about 15 degrees at most, in mm so that it stays rigid) and scaling, and intensities.

    Of `extent`: in half of the draws one modality is shifted by up to `misalignment_mm` along each axis; in a third all
    are deformed alike, by up to `elastic_mm`; with the probability `low_resolution` a modality loses up to half of its
    resolution.
    """
    signs = np.where(np.array(flips) & (rng.random(3) < 0.5), -1.0, 1.0)
    angles = rng.uniform(-0.26, 0.26, 3) * (rng.random() < 0.5)
    scale = np.exp(rng.uniform(-0.18, 0.18)) if rng.random() < 0.5 else 1.0
    edges = np.array(spacing_mm)
    rotation = np.asarray(create_rotate(3, angles.tolist()))[:3, :3]
    matrix = np.diag(1 / edges) @ rotation @ np.diag(edges) @ np.diag(signs * scale)
    intensity = {
        "gain": rng.uniform(0.8, 1.2, modalities),
        "shift": rng.uniform(-0.15, 0.15, modalities),
        "gamma": np.exp(rng.uniform(-0.25, 0.25, modalities) * (rng.random(modalities) < 0.5)),
        "noise": rng.uniform(0, 0.1, modalities) * (rng.random(modalities) < 0.3),
        "seed": int(rng.integers(2**31)),
    }
    offsets = np.zeros((modalities, 3))
    if extent.misalignment_mm and modalities > 1 and rng.random() < 0.5:
        offsets[rng.integers(modalities)] = rng.uniform(-extent.misalignment_mm, extent.misalignment_mm, 3) / edges
    warp = None
    if extent.elastic_mm and rng.random() < 1 / 3:
        warp = rng.uniform(-extent.elastic_mm, extent.elastic_mm, (3, *[CONTROLS] * 3)) / edges[:, None, None, None]
    zoom = np.where(rng.random(modalities) < extent.low_resolution, rng.uniform(0.5, 1, modalities), 1.0)
    return Augmentation(matrix=matrix, offsets=offsets, warp=warp, zoom=zoom, **intensity)


def apply(
    images: torch.Tensor, label: torch.Tensor, patch: Sequence[int], chosen: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn, scale, flip and deform about the centre, cut to `patch`, and change intensities, with MONAI's transforms.

    images (M, X, Y, Z) float, label (X, Y, Z) integer, both at least as large as the patch; the images linearly, the
    label by nearest neighbour. Returns the same at the patch's size.
    """
    affine = np.eye(4)
    affine[:3, :3] = chosen.matrix
    grid = AffineGrid(affine=affine, dtype=torch.float32)(patch)[0]  # voxels of the image, counted from its centre
    if chosen.warp is not None:
        grid[:3] += Resize(patch, mode="trilinear", align_corners=True)(torch.from_numpy(chosen.warp).float())
    sample = Resample(dtype=torch.float32)
    # one look-up for all modalities that lie where the label lies
    moved = sample(images, grid)
    for index in np.flatnonzero(chosen.offsets.any(axis=1)):
        offset = torch.tensor([*chosen.offsets[index], 0], dtype=torch.float32)
        moved[index] = sample(images[index : index + 1], grid + offset[:, None, None, None])[0]
    changed = torch.cat([_intensity(image[None], index, chosen) for index, image in enumerate(moved)])
    moved_label = sample(label[None].float(), grid, mode="nearest")[0].round().to(label.dtype)
    # without the metadata that MONAI adds, which slows everything after it
    return convert_to_tensor(changed), convert_to_tensor(moved_label)


def _intensity(image: torch.Tensor, index: int, chosen: Augmentation) -> torch.Tensor:
    """One modality (1, X, Y, Z) with the resolution, contrast, brightness and noise drawn for it."""
    zoom, noise = float(chosen.zoom[index]), float(chosen.noise[index])
    steps = [
        RandSimulateLowResolution(prob=float(zoom < 1), downsample_mode="nearest-exact", zoom_range=(zoom, zoom)),
        AdjustContrast(chosen.gamma[index]),
        ScaleIntensity(minv=None, maxv=None, factor=chosen.gain[index] - 1),
        ShiftIntensity(chosen.shift[index]),
        RandGaussianNoise(prob=float(noise > 0), std=noise, sample_std=False),
    ]
    changed: torch.Tensor = Compose(steps).set_random_state(chosen.seed + index)(image)
    return changed
