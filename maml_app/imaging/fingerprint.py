"""What labelled cases have in common, measured: the numbers that a training plan is made from.

The idea is nnU-Net's (Isensee 2021, 10.1038/s41592-020-01008-z): what matters is read off the data, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, LabelError
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.preprocess import prepare
from maml_app.imaging.reading import readings
from maml_app.imaging.volume import Array, Grid, Volume

Three = tuple[float, float, float]
SAMPLES = 10_000  # foreground voxels remembered of each image
MARGIN_HU = 10.0


@dataclass(frozen=True)
class Fingerprint:
    """Numbers over labelled cases; axes are those nearest to R, A, S.

    Attributes:
        spacing_mm: one entry a case, of the image that lends it its frame; size_mm: of what its images show there.
        windows_hu: CT modality -> 0.5th and 99.5th percentile of what lies in the foreground.
        lesions_ml: volumes of the connected parts of the foreground, over all cases, ascending.
        missing: modality -> in how many cases it is missing.
    """

    cases: int
    spacing_mm: tuple[Three, ...]
    size_mm: tuple[Three, ...]
    windows_hu: dict[str, tuple[float, float]]
    lesions_ml: tuple[float, ...]
    missing: dict[str, int]

    @property
    def median_spacing_mm(self) -> Array:
        return np.asarray(np.median(self.spacing_mm, axis=0))

    @property
    def median_size_mm(self) -> Array:
        return np.asarray(np.median(self.size_mm, axis=0))


def take_fingerprint(
    cases: Sequence[Case],
    spec: TaskSpec,
    tick: Callable[[str], None] = lambda case_id: None,
    skip: Callable[[str, str], None] = lambda case_id, reason: None,
) -> Fingerprint:
    """Measure labelled cases; `skip` is called with those that cannot be used, and why.

    Raises:
        LabelError: none of them has a final label that can be used, or all labels are empty.
    """
    from scipy import ndimage

    labelled = [case for case in cases if case.label is not None]
    if not labelled:
        raise LabelError(f"expected at least one case with a final label, got none among {len(cases)} cases")
    spacings, sizes, lesions = [], [], []
    values: dict[str, list[Array]] = {m.name: [] for m in spec.modalities if m.kind == "CT"}
    used, missing = 0, dict.fromkeys(spec.modality_names, 0)
    for case in labelled:
        tick(case.id)
        try:
            label, read = read_case_label(case, spec), list(readings(case, spec))
            shown = prepare(case, spec, read).grid
        except CaseError as error:
            skip(case.id, str(error))
            continue
        used += 1
        volumes = {reading.modality.name: reading.volume for reading in read if reading.volume is not None}
        frame = volumes[next(name for name in spec.preference if name in volumes)].grid
        order = nib.orientations.io_orientation(frame.affine)[:, 0].astype(int)
        spacings.append(_ordered(np.array(frame.spacing_mm), order))
        x, y, z = (edge * size for edge, size in zip(shown.spacing_mm, shown.shape, strict=True))
        sizes.append((x, y, z))
        parts, count = ndimage.label(label.voxels > 0, np.ones((3, 3, 3)))
        lesions += (np.bincount(parts.ravel(), minlength=count + 1)[1:] * label.grid.voxel_ml).tolist()
        for name, found in values.items():
            if name in volumes:
                found.append(_foreground(volumes[name], label))
        for name in missing:
            missing[name] += name not in volumes
    if not used:
        raise LabelError("no labelled case can be used: look with check")
    if not lesions:
        raise LabelError(f"expected something labelled in at least one case, got {used} labels that are all empty")
    windows = {name: _window(np.concatenate(found)) for name, found in values.items() if found}
    return Fingerprint(
        used,
        tuple(spacings),
        tuple(sizes),
        {name: window for name, window in windows.items() if window},
        tuple(sorted(round(volume, 4) for volume in lesions)),
        missing,
    )


def _ordered(values: Array, order: Array) -> Three:
    result = np.zeros(3)
    result[order] = values
    return float(result[0]), float(result[1]), float(result[2])


def _foreground(image: Volume, label: Volume) -> Array:
    grid: Grid = image.grid
    inside = image.voxels[resample_label(label.voxels, label.grid, grid) > 0]
    return np.asarray(np.random.default_rng(0).permutation(inside)[:SAMPLES])


def _window(values: Array) -> tuple[float, float] | None:
    if not len(values):
        return None
    low, high = np.percentile(values, (0.5, 99.5))
    return float(np.floor(low - MARGIN_HU)), float(np.ceil(high + MARGIN_HU))
