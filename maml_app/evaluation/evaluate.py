"""Score a model on labelled cases under every subset of modalities, on the grid of each case's label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from maml_app.cases.case import Case, subsets
from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.metrics import bootstrap_interval, dice_scores, mean, thorough_scores
from maml_app.imaging.geometry import restore_label
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.imaging.volume import Array, Volume
from maml_app.network.ensemble import SegmentationNetwork
from maml_app.network.window import predict_subsets


def subset_name(subset: Sequence[str]) -> str:
    return "+".join(subset)


def answers(
    network: SegmentationNetwork,
    case: Case,
    spec: TaskSpec,
    patch: Sequence[int],
    device: torch.device,
    prepared: Prepared | None = None,
    every: bool = True,
) -> Iterator[tuple[str, Array, Volume]]:
    """For every non-empty subset of the modalities that the case has: its name, the answer on the label's grid, truth.

    Args:
        prepared: the case as `prepare` returned it, where it is at hand.
        every: False for all modalities together only.
    """
    prepared = prepared or prepare(case, spec)
    truth = read_case_label(case, spec)
    names = list(subsets(prepared.used)) if every else [prepared.used]
    presences = [torch.tensor([name in subset for name in spec.modality_names], device=device) for subset in names]
    # several subsets a pass share the experts' features; a few at a time bounds the memory
    for start in range(0, len(names), 8):
        part = slice(start, start + 8)
        stacked = predict_subsets(network, prepared.images.to(device), presences[part], patch)
        for subset, probabilities in zip(names[part], stacked, strict=True):
            yield subset_name(subset), restore_label(probabilities, prepared.grid, truth.grid), truth


def score_case(
    network: SegmentationNetwork,
    case: Case,
    spec: TaskSpec,
    patch: Sequence[int],
    device: torch.device,
    prepared: Prepared | None = None,
) -> dict[str, dict[str, float | None]]:
    """Dice by subset name and scored name; arguments as of `answers`."""
    return {
        subset: dice_scores(label, truth.voxels, spec.scored)
        for subset, label, truth in answers(network, case, spec, patch, device, prepared)
    }


def evaluate(
    network: SegmentationNetwork,
    cases: Sequence[Case],
    spec: TaskSpec,
    patch: Sequence[int],
    device: torch.device,
    tick: Callable[[str], None] = lambda case_id: None,
    thorough: bool = False,
) -> dict[str, Any]:
    """Score every case. Returns `cases` (Dice by case), `subsets` (mean by subset and scored name), and `mean`.

    A subset's row holds the cases that have all of its modalities; `mean` is over subsets, `full` all modalities.

    Args:
        thorough: add `details`, what `thorough_scores` tells by case, subset and scored name, and `measures`, of that
            the means by subset and scored name.
    """
    per_case: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for case in cases:
        if thorough:
            details[case.id] = {
                subset: thorough_scores(
                    label, truth.voxels, spec.scored, truth.grid.spacing_mm, spec.surface_tolerance_mm
                )
                for subset, label, truth in answers(network, case, spec, patch, device)
            }
            per_case[case.id] = {
                subset: {name: scores["dice"] for name, scores in by_name.items()}
                for subset, by_name in details[case.id].items()
            }
        else:
            per_case[case.id] = score_case(network, case, spec, patch, device)
        tick(case.id)
    report = summarise(per_case, spec)
    return {**report, "details": details, "measures": _measures(details, spec)} if thorough else report


def _measures(details: dict[str, Any], spec: TaskSpec) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for subset in map(subset_name, subsets(spec.modality_names)):
        for name in spec.scored:
            found = [scores[subset][name] for scores in details.values() if subset in scores]
            if not found:
                continue
            lesions = sum(one["lesions"] for one in found)
            rows.setdefault(subset, {})[name] = {
                "dice": mean([one["dice"] for one in found]),
                "nsd": mean([one["nsd"] for one in found]),
                "hd95_mm": mean([one["hd95_mm"] for one in found]),
                "sensitivity": sum(one["found"] for one in found) / lesions if lesions else None,
                "false_positives": mean([one["false_positives"] for one in found]),
                "volume_error_ml": mean([abs(one["volume_error_ml"]) for one in found]),
                "volume_bias_ml": mean([one["volume_error_ml"] for one in found]),
            }
    return rows


def summarise(per_case: dict[str, Any], spec: TaskSpec) -> dict[str, Any]:
    """Means and intervals of scores by case, as `evaluate` returns them."""
    rows: dict[str, Any] = {}
    for subset in map(subset_name, subsets(spec.modality_names)):
        having = [scores[subset] for scores in per_case.values() if subset in scores]
        if having:
            by_name = {name: mean([scores[name] for scores in having]) for name in spec.scored}
            rows[subset] = {
                "cases": len(having),
                **by_name,
                "mean": mean(list(by_name.values())),
                "interval": bootstrap_interval(list(case_means(per_case, subset).values())),
            }
    full = rows.get(subset_name(spec.modality_names))
    return {
        "subsets": rows,
        "mean": mean([row["mean"] for row in rows.values()]),
        "interval": bootstrap_interval(list(case_means(per_case).values())),
        "full": full["mean"] if full else None,
        "cases": per_case,
    }


def case_means(per_case: dict[str, Any], subset: str | None = None) -> dict[str, float]:
    """Mean Dice of each case over what is scored: under one subset, or over all of its subsets if None."""
    means = {}
    for case_id, scores in per_case.items():
        used = list(scores.values()) if subset is None else [scores[subset]] if subset in scores else []
        value = mean([mean(list(one.values())) for one in used])
        if value is not None:
            means[case_id] = value
    return means


def compare(report: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Paired difference, report minus other, over the cases in both: by subset, and over all subsets as "mean"."""
    result: dict[str, Any] = {}
    for name in [*report["subsets"], None]:
        ours, theirs = (case_means(one["cases"], name) for one in (report, other))
        differences = [ours[case_id] - theirs[case_id] for case_id in ours if case_id in theirs]
        if differences:
            result[name or "mean"] = {
                "cases": len(differences),
                "difference": mean(differences),
                "interval": bootstrap_interval(differences),
            }
    return result
