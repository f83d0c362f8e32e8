"""Synthetic multi-modal cases: a body, an organ in it, lesions that not every modality shows.

A deliberate phantom, for machines without data and for tests: the truth is known, from a seed. Each modality has its
own grid (size, spacing, obliquity), its own bias field and noise, and is shifted a little against the truth, as real
acquisitions are. A lesion is visible in some modalities only; all lesions together are the truth, so no modality alone
can find it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maml_app.cases.spec import Modality, TaskSpec
from maml_app.imaging.files import write_image, write_label
from maml_app.imaging.volume import Array, Grid, Volume

EXTENT_MM = 128.0


@dataclass(frozen=True)
class Ball:
    """An ellipsoid: centre and radii, RAS mm, and the modalities (by index) that show it."""

    centre_mm: Array
    radii_mm: Array
    seen_by: tuple[int, ...]

    def depth(self, places_mm: Array) -> Array:
        """Signed distance in units of the radius: 1 in the centre, 0 on the surface, negative outside."""
        return np.asarray(1 - np.sqrt((((places_mm - self.centre_mm) / self.radii_mm) ** 2).sum(axis=-1)))


@dataclass(frozen=True)
class PhantomCase:
    """Images by modality name, and the label map on the reference's grid."""

    id: str
    images: dict[str, Volume]
    label: Volume


def make_case(
    spec: TaskSpec, seed: int, number: int, size: int = 48, missing: Sequence[str] = (), healthy: bool = False
) -> PhantomCase:
    """One case, the same for the same seed and number. `size` is the number of voxels along X of the finest grid.

    Args:
        missing: modalities that it lacks.
        healthy: there is no lesion.
    """
    rng = np.random.default_rng((seed, number))
    body = Ball(rng.normal(0, 3, 3), rng.uniform(54, 60, 3), ())
    organ = Ball(rng.normal(0, 5, 3), rng.uniform([34, 30, 28], [42, 38, 36]), ())
    lesions = _lesions(rng, organ, len(spec.modalities))[: 0 if healthy else None]
    images = {}
    grids = {}
    for index, modality in enumerate(spec.modalities):
        grid = _grid(rng, index, size)
        grids[modality.name] = grid
        image = _image(rng, modality, index, grid, body, organ, lesions)
        if modality.name not in missing:
            images[modality.name] = image
    frame = next(name for name in spec.preference if name in images)
    return PhantomCase(f"phantom_{number:03d}", images, _truth(spec, grids[frame], organ, lesions))


def _lesions(rng: np.random.Generator, organ: Ball, modalities: int) -> list[Ball]:
    """Two to four in the organ; each is shown by one modality at least, by two or more in half of the cases."""
    lesions = []
    for _ in range(rng.integers(2, 5)):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        centre = organ.centre_mm + direction * organ.radii_mm * rng.uniform(0.2, 0.65)
        count = 1 if rng.random() < 0.5 else int(rng.integers(2, modalities + 1)) if modalities > 1 else 1
        seen = tuple(sorted(int(i) for i in rng.permutation(modalities)[:count]))
        lesions.append(Ball(centre, rng.uniform(8, 15) * rng.uniform(0.8, 1.2, 3), seen))
    return lesions


def _grid(rng: np.random.Generator, index: int, size: int) -> Grid:
    """Modalities alternate between fine, coarse and anisotropic, and are tilted by a few degrees."""
    factor = np.array([(1.0, 1.0, 1.4), (1.9, 1.9, 1.6), (1.2, 1.2, 2.0), (1.0, 1.4, 1.4)][index % 4])
    spacing = EXTENT_MM / size * factor
    shape = np.maximum(8, np.round(EXTENT_MM / spacing).astype(int))
    turn = np.eye(3)
    for first, second in ((0, 1), (1, 2)):
        angle = rng.uniform(-0.12, 0.12)
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    affine = np.eye(4)
    # NIfTI from DICOM usually runs to L and P: negative first axes
    affine[:3, :3] = turn @ np.diag(spacing * [-1, -1, 1])
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2) + rng.normal(0, 2, 3)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _places(grid: Grid) -> Array:
    index = np.stack(np.meshgrid(*[np.arange(side) for side in grid.shape], indexing="ij"), axis=-1)
    return np.asarray(index @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def _image(
    rng: np.random.Generator,
    modality: Modality,
    index: int,
    grid: Grid,
    body: Ball,
    organ: Ball,
    lesions: Sequence[Ball],
) -> Volume:
    places = _places(grid) + rng.normal(0, 0.8, 3)  # a small misalignment of this modality
    air, tissue, inside, change, noise = {
        "CT": (-1000.0, 20.0, 70.0, 60.0, 18.0),
        "PET": (0.0, 0.6, 1.2, 5.0, 0.35),
        "MR": (0.0, 300.0, 520.0, 320.0, 35.0),
    }[modality.kind]
    values = np.full(grid.shape, air)
    values[body.depth(places) > 0] = tissue
    values[organ.depth(places) > 0] = inside
    sign = -1.0 if index % 2 and modality.kind != "PET" else 1.0
    for lesion in lesions:
        depth = lesion.depth(places)
        if index in lesion.seen_by:
            # brighter or darker with a soft rim
            values += sign * change * np.clip(depth * 4, 0, 1)
    if modality.kind == "MR":
        slope = rng.normal(0, 0.25 / EXTENT_MM, 3)
        values *= 1 + places @ slope
    values += rng.normal(0, noise, grid.shape)
    if modality.kind != "CT":
        values = np.maximum(values, 0)
    return Volume(values.astype(np.float32), grid.affine)


def _truth(spec: TaskSpec, grid: Grid, organ: Ball, lesions: Sequence[Ball]) -> Volume:
    """One label: the lesions. Two: organ, lesions. Three or more: shells, the last label innermost, as in glioma."""
    places = _places(grid)
    label = np.zeros(grid.shape, dtype=np.uint8)
    count = len(spec.labels)
    if count == 2:
        label[organ.depth(places) > 0] = 1
    deepest = np.max([np.full(grid.shape, -1.0), *(lesion.depth(places) for lesion in lesions)], axis=0)
    if count <= 2:
        label[deepest > 0] = count
    else:
        for shell in range(count):
            label[deepest > shell * 0.25] = shell + 1
    return Volume(label, grid.affine)


def write_cases(
    folder: Path, spec: TaskSpec, count: int, seed: int, size: int = 48, labelled: int | None = None
) -> list[Path]:
    """Write cases as `phantom_000/<modality>.nii.gz` and `label.nii.gz`; every fourth lacks one modality.

    Args:
        labelled: how many get a label file, from the first on; all if None.
    """
    written = []
    for number in range(count):
        lacks = spec.modality_names[number // 4 % len(spec.modalities)]
        missing = [lacks] if number % 4 == 3 and len(spec.modalities) > 1 else []
        case = make_case(spec, seed, number, size, missing)
        for name, volume in case.images.items():
            write_image(folder / case.id / f"{name}.nii.gz", volume)
        if labelled is None or number < labelled:
            write_label(folder / case.id / "label.nii.gz", case.label.voxels, case.label.affine)
        written.append(folder / case.id)
    return written
