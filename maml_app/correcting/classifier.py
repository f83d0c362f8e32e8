"""A classifier of one case, learnt from clicks: what belongs together around them, in all modalities at once.

A logistic regression over the images at three scales and what a model says of them. It learns from this case alone: the
places that were clicked count most, and the present mask counts the more the deeper a voxel lies in it or outside it.
It needs no model and no training before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from maml_app.imaging.volume import Array

SURE_MM = 5.0  # around a click everything is as it says; less beside the border of the mask
SURE_SHARE = 0.75  # of the click's distance to that border
DEEP_MM = 10.0  # from its border on, what the mask says counts fully
REACH_MM = 40.0  # a click changes nothing further away; less beside the border of the mask
REACH_SHARE, REACH_LEAST_MM = 6.0, 10.0  # of the click's distance to that border, and what is added
DOUBTED_SHARE = 0.5  # of its reach: there the mask's opinion counts less where it says otherwise
WILL = {True: 0.1, False: 0.4}  # how much likelier a click makes it beside it that something belongs, or does not
CLICKED = 20.0  # what a voxel beside a click counts, against one deep in the mask
SCALES = (1.0, 2.0)  # of the smoothed images, voxels
STIFFNESS = 0.1  # inverse strength of the regularisation


@dataclass(frozen=True, eq=False)
class Clicks:
    """Places that belong to a structure, and places that do not, as voxel indices; the newest is the last of a kind."""

    inside: Sequence[Array] = field(default=())
    outside: Sequence[Array] = field(default=())
    newest_inside: bool = True

    @property
    def newest(self) -> Array:
        return (self.inside if self.newest_inside else self.outside)[-1]


def features(images: Sequence[Array], probabilities: Sequence[Array] = ()) -> Array:
    """What the classifier sees of each voxel (X, Y, Z, F): images (X, Y, Z) and what is said of the structure there."""
    found = []
    for image in images:
        found += [image, *(ndimage.gaussian_filter(image, scale) for scale in SCALES)]
    for probability in probabilities:
        sure = np.clip(probability.astype(np.float32), 1e-3, 1 - 1e-3)
        logit = np.log(sure / (1 - sure))
        found += [logit, ndimage.gaussian_filter(logit, SCALES[0])]
    stacked: Array = np.stack(found, axis=-1).astype(np.float32)
    return stacked


def mended(seen: Array, mask: Array, clicks: Clicks, spacing_mm: Sequence[float]) -> Array:
    """The mask (X, Y, Z) after the newest click: what belongs together around it is added, or taken away.

    Args:
        seen: as `features` returns it; a crop around the click is enough.
        mask: bool, before the click; the clicks before it are kept to.
    """
    depth = _depth(mask, spacing_mm)
    marks = [
        _Mark(place, says, depth, spacing_mm)
        for places, says in ((clicks.outside, False), (clicks.inside, True))
        for place in places
    ]
    newest = next(mark for mark in reversed(marks) if mark.says == clicks.newest_inside)
    sure_in, sure_out = _sure(marks, mask.shape)
    truth = np.where(sure_in, True, np.where(sure_out, False, mask))
    weight = np.minimum(depth, DEEP_MM) / DEEP_MM
    for mark in marks:
        doubted = (mark.away <= DOUBTED_SHARE * mark.reach) & (mask != mark.says)
        weight[doubted] *= 0.3 * (mark.away[doubted] / (DOUBTED_SHARE * mark.reach)) ** 2
    weight[sure_in | sure_out] = CLICKED
    near = newest.away <= newest.reach
    likely = _likelihood(seen, truth, weight, newest.away <= 1.5 * newest.reach)
    will = WILL[newest.says] * np.clip(1 - newest.away / newest.reach, 0, 1)
    belongs = likely + (will if newest.says else -will) > 0.5
    if newest.says:
        change = (belongs | sure_in) & ~mask & near & ~sure_out
    else:
        change = (~belongs | sure_out) & mask & near & ~sure_in
    # what hangs together with the click
    parts, _ = ndimage.label(change | (newest.away <= 1.01 * max(spacing_mm)))
    return np.asarray(mask ^ (change & (parts == parts[_index(newest.place, mask.shape)])))


class _Mark:
    """A click in a mask: how far away each voxel is, mm; how much around it is sure, and how far it reaches."""

    def __init__(self, place: Array, says: bool, depth: Array, spacing_mm: Sequence[float]) -> None:
        self.place, self.says = place, says
        axes = (np.arange(size) for size in depth.shape)
        steps = [(axis - at) * edge for axis, at, edge in zip(axes, place, spacing_mm, strict=True)]
        x, y, z = (step**2 for step in steps)
        self.away = np.sqrt(x[:, None, None] + y[:, None] + z)
        border = float(depth[_index(place, depth.shape)])
        self.sure = max(min(SURE_MM, SURE_SHARE * border), 0.51 * min(spacing_mm))
        self.reach = min(REACH_MM, REACH_LEAST_MM + REACH_SHARE * border)


def _sure(marks: Sequence[_Mark], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Where clicks leave no doubt that something belongs, and that it does not: the nearer one counts."""
    best = {says: np.full(shape, np.inf) for says in (True, False)}
    for mark in marks:
        best[mark.says] = np.minimum(best[mark.says], np.where(mark.away <= mark.sure, mark.away, np.inf))
    inside = np.isfinite(best[True]) & (best[True] < best[False])
    return inside, np.isfinite(best[False]) & ~inside


def _depth(mask: Array, spacing_mm: Sequence[float]) -> Array:
    """Distance of each voxel to the mask's border, mm, on both sides; far where there is none."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf)
    within, beyond = (ndimage.distance_transform_edt(part, sampling=spacing_mm) for part in (mask, ~mask))
    return np.where(mask, within, beyond)


def _likelihood(seen: Array, truth: Array, weight: Array, region: Array) -> Array:
    """How likely a classifier that learns this truth finds the structure, within a region; 0 outside of it."""
    taught = region & (weight > 0.05)
    classes, weights = truth[taught], weight[taught]
    if classes.all() or not classes.any():
        return np.asarray(truth & region, dtype=np.float64)
    values = seen[taught]
    mean, deviation = values.mean(axis=0), values.std(axis=0) + 1e-6
    # both classes count alike
    weights = weights / np.where(classes, weights[classes].sum(), weights[~classes].sum()) * len(classes) / 2
    learnt = LogisticRegression(C=STIFFNESS, max_iter=200)
    learnt.fit((values - mean) / deviation, classes, sample_weight=weights)
    result = np.zeros(truth.shape)
    result[region] = learnt.predict_proba((seen[region] - mean) / deviation)[:, 1]
    return result


def _index(place: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The voxel of a place."""
    return tuple(np.clip(np.round(place).astype(int), 0, np.array(shape) - 1).tolist())
