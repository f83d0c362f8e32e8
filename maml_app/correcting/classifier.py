"""A classifier of one case, learnt from prompts: what belongs together around them, in all modalities at once.

A logistic regression over the images at three scales and what a model says of them. It learns from this case alone: the
places of prompts count most, and the present mask counts the more the deeper a voxel lies in it or outside it.
It needs no model and no training before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from maml_app.correcting.marks import REACH_MM, Scene
from maml_app.correcting.view import View, logit
from maml_app.imaging.volume import Array

DEEP_MM = 10.0  # from its border on, what the mask says counts fully
DOUBTED_SHARE = 0.5  # of its reach: there the mask's opinion counts less where it says otherwise
WILL = {True: 0.1, False: 0.4}  # how much likelier a prompt makes it beside it that something belongs, or does not
MARKED = 20.0  # what a voxel beside a prompt counts, against one deep in the mask
SCALES = (1.0, 2.0)  # of the smoothed images, voxels
STIFFNESS = 0.1  # inverse strength of the regularisation


class Classifier:
    """Learns anew at each prompt."""

    def half(self, spacing_mm: Sequence[float]) -> Array:
        """Half the sides (3,) of the crop around a place that it looks at, voxels."""
        half: Array = np.ceil(2 * REACH_MM / np.array(spacing_mm)).astype(int)
        return half

    def likely(self, scene: Scene, view: View) -> Array:
        """How likely each voxel belongs to the structure, (X, Y, Z), as learnt from a scene and what is seen in it."""
        newest, mask = scene.newest, scene.mask
        sure_in, sure_out = scene.sure
        truth = np.where(sure_in, True, np.where(sure_out, False, mask))
        weight = np.minimum(scene.depth, DEEP_MM) / DEEP_MM
        for mark in scene.marks:
            doubted = (mark.away <= DOUBTED_SHARE * mark.reach) & (mask != mark.says)
            weight[doubted] *= 0.3 * (mark.away[doubted] / (DOUBTED_SHARE * mark.reach)) ** 2
        weight[sure_in | sure_out] = MARKED
        likely = _likelihood(_features(view), truth, weight, newest.away <= 1.5 * newest.reach)
        will = WILL[newest.says] * np.clip(1 - newest.away / newest.reach, 0, 1)
        return np.asarray(likely + (will if newest.says else -will))


def _features(view: View) -> Array:
    """What the classifier sees of each voxel (X, Y, Z, F): images, and what is said of the structure there."""
    found = []
    for image in view.images.values():
        found += [image, *(ndimage.gaussian_filter(image, scale) for scale in SCALES)]
    for said in (*view.experts.values(), *([] if view.fused is None else [view.fused])):
        found += [logit(said), ndimage.gaussian_filter(logit(said), SCALES[0])]
    stacked: Array = np.stack(found, axis=-1).astype(np.float32)
    return stacked


def _likelihood(seen: Array, truth: Array, weight: Array, region: Array) -> Array:
    """How likely a classifier that learns this truth finds the structure, within a region; 0 outside of it."""
    from sklearn.linear_model import LogisticRegression  # takes a second, which only a prompt has to pay
    from threadpoolctl import threadpool_limits

    taught = region & (weight > 0.05)
    classes, weights = truth[taught], weight[taught]
    if classes.all() or not classes.any():
        return np.asarray(truth & region, dtype=np.float64)
    values = seen[taught]
    mean, deviation = values.mean(axis=0), values.std(axis=0) + 1e-6
    # both classes count alike
    weights = weights / np.where(classes, weights[classes].sum(), weights[~classes].sum()) * len(classes) / 2
    learnt = LogisticRegression(C=STIFFNESS, max_iter=200)
    result = np.zeros(truth.shape)
    # for so few columns threads of the linear algebra wait for each other, beside other work for most of the click
    with threadpool_limits(1, "blas"):
        learnt.fit((values - mean) / deviation, classes, sample_weight=weights)
        result[region] = learnt.predict_proba((seen[region] - mean) / deviation)[:, 1]
    return result
