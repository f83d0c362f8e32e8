"""Pictures of an evaluation, as PNG: bars over subsets, boxes over cases, and the worst cases with contours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.evaluation.evaluate import Segmenter, answers
from maml_app.evaluation.metrics import mean
from maml_app.evaluation.scores import Scores
from maml_app.imaging.geometry import resample
from maml_app.imaging.labels import prepare_label
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.imaging.volume import Array, Volume
from maml_app.network.ensemble import MamlEnsemble
from maml_app.network.window import predict_attention, predict_opinions

WORST = 3


def bars(scores: Scores) -> bytes:
    """Mean Dice of each structure under each subset."""
    figure, axes = _figure(max(6.0, 0.9 * len(scores.subsets)), 3.6)
    width = 0.8 / len(scores.scored)
    for place, name in enumerate(scores.scored):
        heights = [row.dice[name] or 0.0 for row in scores.subsets.values()]
        across = np.arange(len(heights)) + (place - (len(scores.scored) - 1) / 2) * width
        axes.bar(across, heights, width, label=name)
    axes.set_xticks(range(len(scores.subsets)), list(scores.subsets), rotation=30, ha="right")
    axes.set(ylim=(0, 1), ylabel="mean Dice")
    axes.legend(loc="lower right")
    return _png(figure)


def boxes(scores: Scores) -> bytes:
    """Dice of the cases, mean over structures, under each subset."""
    figure, axes = _figure(max(6.0, 0.9 * len(scores.subsets)), 3.6)
    names = list(scores.subsets)
    axes.boxplot([list(scores.case_means(subset).values()) for subset in names], showmeans=True)
    axes.set_xticks(range(1, len(names) + 1), names, rotation=30, ha="right")
    axes.set(ylim=(0, 1), ylabel="Dice of a case")
    return _png(figure)


def worst(scores: Scores) -> list[str]:
    """Ids of the cases that score lowest with all of their modalities, the worst first."""
    found = {case_id: mean(list(dice[scores.all_of(case_id)].values())) for case_id, dice in scores.cases.items()}
    known = {case_id: value for case_id, value in found.items() if value is not None}
    return sorted(known, key=lambda case_id: known[case_id])[:WORST]


def panel(segmenter: Segmenter, case: Case) -> bytes:
    """One case in each of its modalities, on the label's grid, at the slice where truth and answer differ most.

    The truth is outlined in green, the answer in red. Slices are shown as stored, along the grid's third axis.
    """
    spec, prepared = segmenter.spec, prepare(case, segmenter.spec)
    (answer,) = answers(segmenter, case, prepared, every=False)
    label, truth = answer.label, answer.truth
    place = int((label != truth.voxels).sum(axis=(0, 1)).argmax())
    shown = [index for index, there in enumerate(prepared.presence.tolist()) if there]
    figure, all_axes = _figure(3.0 * len(shown), 3.4, len(shown))
    for axes, index in zip(np.atleast_1d(all_axes), shown, strict=True):
        axes.imshow(_on_label(prepared, index, truth)[:, :, place].T, cmap="gray", origin="lower")
        for mask, colour in ((truth.voxels, "#40e060"), (label, "#ff4040")):
            inside = (mask[:, :, place] > 0).T
            if inside.any() and not inside.all():
                axes.contour(inside, levels=[0.5], colors=[colour], linewidths=[1.2])
        axes.set_title(spec.modality_names[index], fontsize=9)
        axes.set_axis_off()
    return _png(figure)


def inside(segmenter: Segmenter, case: Case) -> bytes:
    """What goes on in an ensemble: each modality's image, its expert's opinion, and the attention that it gets.

    On the network's grid, at the slice with most foreground in the truth; last the fused opinion, and the truth.
    """
    network, spec, patch = segmenter.network, segmenter.spec, segmenter.patch
    assert isinstance(network, MamlEnsemble)
    prepared = prepare(case, spec)
    images, presence = prepared.images.to(segmenter.device), prepared.presence.to(segmenter.device)
    opinions = predict_opinions(network, images, presence, patch)
    attention = predict_attention(network, images, presence, patch)
    truth = prepare_label(case, spec, prepared.grid) > 0
    place = int(truth.sum(axis=(0, 1)).argmax())
    rows = [*opinions.experts]
    figure, axes = _figure(7.5, 2.4 * (len(rows) + 1), 3, len(rows) + 1)
    span = (0.0, float(attention.max()))
    show = partial(_show, truth=truth[:, :, place])
    for row, index in enumerate(rows):
        name = spec.modality_names[index]
        show(axes[row, 0], prepared.images[index][:, :, place], _Look(name, "gray"))
        show(axes[row, 1], 1 - opinions.experts[index][0, :, :, place], _Look(f"expert of {name}", "magma", (0, 1)))
        show(axes[row, 2], attention[index][:, :, place], _Look(f"attention to {name}", "viridis", span))
    show(axes[-1, 0], 1 - opinions.fused[0, :, :, place], _Look("fused", "magma", (0, 1)))
    show(axes[-1, 1], torch.from_numpy(truth[:, :, place]), _Look("truth", "gray", (0, 1)))
    axes[-1, 2].set_axis_off()
    return _png(figure)


@dataclass(frozen=True)
class _Look:
    title: str
    colours: str
    span: tuple[float, float] | None = None


def _show(axes: Any, values: torch.Tensor, look: _Look, truth: Array) -> None:
    """A slice (X, Y) with the truth's contour."""
    low, high = look.span or (None, None)
    axes.imshow(np.asarray(values).T, cmap=look.colours, origin="lower", vmin=low, vmax=high)
    if truth.any():
        axes.contour(truth.T, levels=[0.5], colors=["#40e060"], linewidths=[1.0])
    axes.set_title(look.title, fontsize=9)
    axes.set_axis_off()


def _on_label(prepared: Prepared, index: int, truth: Volume) -> Array:
    image = prepared.images[index]
    return np.asarray(resample(image, prepared.grid, truth.grid, fill=float(image.min())))


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
