"""Where two labels of a case differ most, drawn on its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.disk import write_atomically
from maml_app.errors import MamlError, StudiesError
from maml_app.imaging.files import read_image
from maml_app.imaging.geometry import resample, resample_label
from maml_app.imaging.volume import Volume


def draw_difference(case: Case, label: Volume, other: Volume, spec: TaskSpec, path: Path) -> None:
    """Write a PNG: the slice, along the third axis, in which most voxels differ, on every image that can be read.

    The contour of `label` is solid, that of `other` dashed.

    Raises:
        StudiesError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    before = resample_label(other.voxels, other.grid, label.grid)
    place = int((label.voxels != before).sum(axis=(0, 1)).argmax())
    shown = {}
    for name, ref in case.images.items():
        try:
            image = read_image(ref)
        except MamlError:
            continue
        voxels = resample(torch.from_numpy(image.voxels).float(), image.grid, label.grid, float(image.voxels.min()))
        shown[name] = voxels[:, :, place].numpy().T
    figure = Figure(figsize=(4 * max(1, len(shown)), 4.4), layout="constrained")
    across, along, _ = label.grid.spacing_mm
    for axes, (name, plane) in zip(
        figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown.items(), strict=False
    ):
        low, high = np.percentile(plane, (1, 99))
        axes.imshow(plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=along / across, origin="lower")
        for mask, style in ((label.voxels, "solid"), (before, "dashed")):
            for structure in spec.labels:
                inside = (mask[:, :, place] == structure.value).T
                if inside.any():
                    colour = "#{:02x}{:02x}{:02x}".format(*structure.colour)
                    axes.contour(inside, [0.5], colors=[colour], linestyles=style, linewidths=1)
        axes.set(title=f"{name}, slice {place}", xticks=[], yticks=[])
    try:
        write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=110))
    except OSError as error:
        raise StudiesError(f"{path}: could not be written ({error})") from None
