"""How far one label map is from another: what a person changed, or on what two readers differ."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from maml_app.cases.history import Change
from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.metrics import measure
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.volume import Array, Volume

MARGIN = 2  # voxels around both structures, so that their surfaces are whole


def changes(label: Volume, other: Volume, spec: TaskSpec) -> dict[str, Change]:
    """By label name, for every label that is in one of them; on the grid of `label`, onto which `other` is brought."""
    before = resample_label(other.voxels, other.grid, label.grid)
    found = {}
    for value, name in spec.label_values.items():
        new, old = label.voxels == value, before == value
        places = np.argwhere(new | old)
        if not len(places):
            continue
        start = np.maximum(places.min(axis=0) - MARGIN, 0)
        stop = np.minimum(places.max(axis=0) + 1 + MARGIN, label.voxels.shape)
        region = tuple(slice(first, last) for first, last in zip(start, stop, strict=True))
        part = Volume(new[region].astype(np.uint8), label.grid.crop(start, stop).affine)
        measures = measure(old[region].astype(np.uint8), part, {name: (1,)}, spec.surface_tolerance_mm)[name]
        voxels = int((new ^ old).sum())
        found[name] = Change(
            voxels=voxels,
            ml=round(voxels * label.grid.voxel_ml, 4),
            dice=measures.dice,
            surface_dice=measures.nsd,
            added_path_mm=round(added_path_mm(part, old[region]), 2),
        )
    return found


def added_path_mm(label: Volume, before: Array) -> float:
    """Length of the contours of a mask that `before`, a mask of the same shape, does not have, slice by slice.

    Vaassen et al. 2020 (10.1016/j.phro.2019.12.001) count voxels of the new contour that are not of the old one; here
    each counts with the mean edge of a voxel in the slice. Slices lie across the axis of the largest spacing, else the
    last one.
    """
    spacing = np.array(label.grid.spacing_mm)
    axis = int(2 - np.argmax(spacing[::-1].round(3)))
    cross = ndimage.generate_binary_structure(3, 1)
    cross[tuple(slice(None) if other != axis else [0, 2] for other in range(3))] = False
    contours = []
    for mask in (label.voxels > 0, before):
        # beyond the image is nothing: a mask that is cut off there has a contour there
        contours.append(mask & ~ndimage.binary_erosion(mask, cross))
    edge_mm = float(np.delete(spacing, axis).mean())
    return int((contours[0] & ~contours[1]).sum()) * edge_mm


def in_words(found: dict[str, Change]) -> str:
    """Dice and volume that differ, a label each."""
    told = [
        f"{name}: Dice {'–' if change.dice is None else f'{change.dice:.2f}'}, {change.ml:.2f} ml differ"
        for name, change in found.items()
    ]
    return "; ".join(told) or "both are empty"
