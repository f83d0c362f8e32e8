"""The one preprocessing pipeline, shared by inference, training and evaluation, and its way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import Modality, TaskSpec
from maml_app.errors import GridError, ImageError, LabelError
from maml_app.imaging.files import read_grid, read_image, read_label
from maml_app.imaging.geometry import network_grid, resample, resample_label
from maml_app.imaging.volume import Array, Grid, Volume

SUV_PLAUSIBLE = 50.0  # a 99th percentile above this is no SUV: body weight SUV of tissue stays below it
SUV_MAX = 30.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network takes it: images (M, X, Y, Z) float32, presence (M,) bool, on `grid`."""

    images: torch.Tensor
    presence: torch.Tensor
    grid: Grid


def suv_scale(values: Array) -> float:
    """Factor that turns stored PET values into SUV: 1, or 0.01 for files that keep hundredths of SUV as integers.

    Raises:
        ValueError: neither is plausible, so the values are probably Bq/ml.
    """
    high = float(np.percentile(values, 99))
    for scale in (1.0, 0.01):
        if high * scale <= SUV_PLAUSIBLE:
            return scale
    raise ValueError(
        f"expected PET in SUV (or hundredths of SUV), got a 99th percentile of {high:g}; "
        "convert Bq/ml to body-weight SUV first"
    )


def normalise(volume: Volume, modality: Modality) -> tuple[torch.Tensor, float]:
    """Map intensities to about -1..1 by kind; also what stands outside the image after that.

    CT: the HU window to -1..1. PET: log(1 + SUV) - 1. MR: z-score of the non-zero voxels, clipped at 5.

    Raises:
        ValueError: PET values that cannot be SUV.
    """
    values = volume.voxels
    if modality.kind == "CT":
        assert modality.window is not None  # the spec requires it
        low, high = modality.window
        result = np.clip((values - low) / (high - low), 0, 1) * 2 - 1
        outside = -1.0
    elif modality.kind == "PET":
        result = np.log1p(np.clip(values * suv_scale(values), 0, SUV_MAX)) - 1
        outside = -1.0
    else:
        body = values[values != 0]
        body = body if body.size > 0.01 * values.size else values
        mean, std = float(body.mean()), max(float(body.std()), 1e-6)
        result = np.clip((values - mean) / std, -5, 5)
        outside = float(np.clip((0 - mean) / std, -5, 5))
    return torch.from_numpy(np.ascontiguousarray(result, dtype=np.float32)), outside


def case_grid(case: Case, spec: TaskSpec) -> Grid:
    """The grid the network works on for this case: from the reference modality, or the first that is there.

    Every answer about a case is computed here, whichever of its images is asked for, so that answers agree.
    """
    frame = read_grid(case.images[case.frame_modality(spec.preference)])
    return network_grid(frame, spec.preprocess.spacing_mm)


def prepare(case: Case, spec: TaskSpec) -> Prepared:
    """Read, normalise and align all modalities of a case; absent ones are zero.

    Raises:
        CaseError: no modality, an unreadable file, or an image that shares no space with the case's frame.
    """
    grid = case_grid(case, spec)
    images = torch.zeros((len(spec.modalities), *grid.shape))
    presence = torch.zeros(len(spec.modalities), dtype=torch.bool)
    for index, modality in enumerate(spec.modalities):
        if modality.name not in case.images:
            continue
        ref = case.images[modality.name]
        volume = read_image(ref)
        if not volume.grid.overlaps(grid):
            frame = case.frame_modality(spec.preference)
            raise GridError(
                f"case {case.id}: expected {modality.name} ({ref}) to overlap {frame} in space, got images apart; "
                "check that both come from one examination"
            )
        try:
            normal, outside = normalise(volume, modality)
        except ValueError as error:
            raise ImageError(f"case {case.id}: {modality.name} ({ref}): {error}") from None
        images[index] = resample(normal, volume.grid, grid, fill=outside)
        presence[index] = True
    return Prepared(images, presence, grid)


def to_task_values(label: Volume, spec: TaskSpec, where: str) -> Volume:
    """Map a label map's values to the task's, from the task's own or one of its conventions.

    Raises:
        LabelError: values that belong to neither.
    """
    found = {int(value) for value in np.unique(label.voxels)} - {0}
    if found <= set(spec.label_values):
        return label
    for mapping in spec.conventions.values():
        if found <= set(mapping):
            table = np.zeros(256, dtype=np.uint8)
            table[list(mapping)] = list(mapping.values())
            return Volume(table[label.voxels], label.affine)
    known = [f"{spec.label_values}", *(f"{name}: {sorted(mapping)}" for name, mapping in spec.conventions.items())]
    raise LabelError(f"{where}: expected label values of {' or '.join(known)}, got {sorted(found)}")


def from_task_values(label: Array, spec: TaskSpec, convention: str) -> Array:
    """Map the task's values to those of a convention named in task.yaml, for archives that expect them.

    Raises:
        LabelError: the task has no such convention.
    """
    if convention not in spec.conventions:
        raise LabelError(f"expected a label convention of {sorted(spec.conventions)}, got {convention!r}")
    table = np.zeros(256, dtype=np.uint8)
    for theirs, ours in spec.conventions[convention].items():
        table[ours] = theirs
    return np.asarray(table[label])


def read_case_label(case: Case, spec: TaskSpec) -> Volume:
    """The case's final label map with the task's values, on its own grid.

    Raises:
        LabelError: the case has none, or its values are not the task's.
    """
    if case.label is None:
        raise LabelError(f"case {case.id}: expected a final label, got none")
    return to_task_values(read_label(case.label.local()), spec, str(case.label.path))


def prepare_label(case: Case, spec: TaskSpec, grid: Grid) -> Array:
    """The final label map on the network's grid, uint8 (X, Y, Z). Raises as `read_case_label`."""
    label = read_case_label(case, spec)
    if not label.grid.overlaps(grid):
        raise GridError(f"case {case.id}: expected the label to overlap the images in space, got a label elsewhere")
    return resample_label(label.voxels, label.grid, grid)
