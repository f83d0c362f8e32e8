"""The one preprocessing pipeline, shared by inference, training and evaluation, and its way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import Modality, TaskSpec
from maml_app.errors import ImageError
from maml_app.imaging.geometry import around, network_grid, resample
from maml_app.imaging.plausible import suv_scale
from maml_app.imaging.reading import Reading, no_image, readings
from maml_app.imaging.volume import Grid, Volume

FORMAT = "prepared 3"  # to be changed with what is done here: what was prepared otherwise is not used again
SUV_MAX = 30.0
SHOWN = 0.05  # of a normalised image: by so much a voxel differs from what stands outside of it
MARGIN_MM = 10.0  # around all that is shown


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network takes it: images (M, X, Y, Z) float32, presence (M,) bool, on `grid`.

    `used` are the names of those that are present; `left_out` those that the case has and that cannot be used, and why.
    """

    images: torch.Tensor
    presence: torch.Tensor
    grid: Grid
    used: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def normalise(volume: Volume, modality: Modality) -> tuple[torch.Tensor, float]:
    """Map intensities to about -1..1 by kind; also what stands outside the image after that.

    CT: the HU window to -1..1. PET: log(1 + SUV) - 1. MR: z-score of the non-zero voxels, clipped at 5; a few voxels
    far beyond the 1st and 99th percentile do not change mean and deviation.

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
        first, last = np.percentile(body, (1, 99))
        if last > first:  # a normal distribution's 7 deviations: nothing in an ordinary image
            body = np.clip(body, 2 * first - last, 2 * last - first)
        mean, std = float(body.mean()), max(float(body.std()), 1e-6)
        result = np.clip((values - mean) / std, -5, 5)
        outside = float(np.clip((0 - mean) / std, -5, 5))
    return torch.from_numpy(np.ascontiguousarray(result, dtype=np.float32)), outside


def form(spec: TaskSpec) -> str:
    """What a prepared case depends on besides its images."""
    return f"{FORMAT} {spec.signature()} {spec.preference}"


def prepare(case: Case, spec: TaskSpec, read: Iterable[Reading] | None = None) -> Prepared:
    """Read, normalise and align all modalities of a case; absent ones, and those that are left out, are zero.

    The grid is that of the reference modality, or of the first that can be used, as far as any image shows something on
    it: every answer about a case is computed there, whichever of its images is asked for, so that answers agree.

    Args:
        read: the case's readings, where they are at hand.

    Raises:
        ImageError: no image can be used; the message has each reason.
    """
    places = {name: index for index, name in enumerate(spec.modality_names)}
    presence = torch.zeros(len(spec.modalities), dtype=torch.bool)
    left_out: dict[str, str] = {}
    grid: Grid | None = None
    images = shown = torch.empty(0)
    for reading in readings(case, spec) if read is None else read:
        name = reading.modality.name
        if reading.volume is None:
            left_out[name] = reading.problem
            continue
        if grid is None:
            grid = network_grid(reading.volume.grid, spec.preprocess.spacing_mm)
            images = torch.zeros((len(spec.modalities), *grid.shape))
            shown = torch.zeros(grid.shape, dtype=torch.bool)
        normal, outside = normalise(reading.volume, reading.modality)
        images[places[name]] = resample(normal, reading.volume.grid, grid, fill=outside)
        shown |= (images[places[name]] - outside).abs() > SHOWN
        presence[places[name]] = True
    if grid is None:
        raise ImageError(no_image(case, left_out))
    used = tuple(name for name, index in places.items() if presence[index])
    start, stop = around(shown, np.ceil(MARGIN_MM / np.array(grid.spacing_mm)).astype(int))
    x, y, z = (slice(*ends) for ends in zip(start, stop, strict=True))
    return Prepared(images[:, x, y, z].contiguous(), presence, grid.crop(start, stop), used, left_out)
