"""What the units of a study of rivals show, as Markdown."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals_variants import ALONE, BY_EXPERTS, OURS, RIVALS
from maml_app.cases.case import subsets
from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.metrics import mean
from maml_app.evaluation.report import table_header, table_row
from maml_app.evaluation.scores import Scores, subset_name


def table(spec: TaskSpec, folder: Path, names: list[str]) -> str:
    """What the units in a folder show, as Markdown; Dice by case is averaged over seeds, then over cases.

    One table of Dice under each subset, and one of what an ensemble promises. Differences are between units of the same
    splits and seeds.
    """
    found = _units(folder)
    reports = {name: _merged(spec, found[name].values()) for name in names if name in found}
    if not reports:
        return "nothing yet\n"
    columns = list(reports[next(iter(reports))].subsets)
    full = subset_name(spec.modality_names)
    head = ["variant", "units", "GFLOP", "min", *columns, "mean over subsets", "minus ours, mean", "minus ours, full"]
    lines = table_header(*head)
    for name, report in reports.items():
        units = list(found[name].values())
        numbers = [f"{report.subsets[subset].mean:.3f}" for subset in columns]
        low, high = report.interval or (float("nan"), float("nan"))
        both = sorted(found[name].keys() & found.get(OURS, {}).keys())
        theirs, ours = (_merged(spec, [found[one][key] for key in both]) for one in (name, OURS))
        gaps = [_gap(theirs, ours, subset) if name != OURS else "–" for subset in (None, full)]
        cells = [name, str(len(units)), f"{units[0]['gflop']:.1f}", f"{mean([u['minutes'] for u in units]):.1f}"]
        cells += [*numbers, f"{report.mean:.3f} ({low:.3f} to {high:.3f})", *gaps]
        lines.append(table_row(*cells))
    lines += ["", *_promises(spec, {name: reports[name] for name in (*RIVALS, BY_EXPERTS) if name in reports})]
    return "\n".join(lines) + "\n"


def chart(spec: TaskSpec, folder: Path, names: list[str]) -> bytes:
    """A PNG: mean Dice of each variant under each subset with its interval over patients; empty without units."""
    from matplotlib.figure import Figure  # not needed where a study only trains

    found = _units(folder)
    reports = {name: _merged(spec, found[name].values()) for name in names if name in found}
    if not reports:
        return b""
    columns = list(reports[next(iter(reports))].subsets)
    figure = Figure(figsize=(1.3 * len(columns) + 1, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (name, report) in enumerate(reports.items()):
        across = np.arange(len(columns)) + (place - (len(reports) - 1) / 2) * 0.8 / len(reports)
        means = np.array([report.subsets[subset].mean or 0.0 for subset in columns])
        reach = np.array([report.subsets[subset].interval or (0.0, 0.0) for subset in columns]).T
        axes.errorbar(across, means, yerr=abs(reach - means), fmt="o", capsize=2, label=name)
    axes.set_xticks(range(len(columns)), columns)
    axes.set(ylabel="mean Dice, 95 % interval over patients")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _units(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Variant -> "split-seed" -> unit."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((folder / "units").glob("*.json")):
        name, split, seed = path.stem.rsplit("-", 2)
        found.setdefault(name, {})[f"{split}-{seed}"] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _promises(spec: TaskSpec, reports: Mapping[str, Scores]) -> list[str]:
    """What a missing modality costs at most, where one more does harm, and each alone minus a U-Net trained on it.

    U-Nets without mutual learning whose opinions are averaged are, under a single modality, that U-Net.
    """
    singles = [(name,) for name in spec.modality_names]
    lines = table_header(
        "variant",
        "missing one costs at most",
        "worse with one more",
        *(f"{name} minus its U-Net alone" for name in spec.modality_names),
    )
    for variant, report in reports.items():
        dice = {subset: report.subsets[subset_name(subset)].mean or 0.0 for subset in subsets(spec.modality_names)}
        more = [(fewer, subset) for subset in dice for fewer in dice if set(fewer) < set(subset)]
        next_to = [(fewer, subset) for fewer, subset in more if len(fewer) + 1 == len(subset)]
        costs = [(dice[subset] - dice[fewer], fewer) for fewer, subset in next_to if subset == spec.modality_names]
        cost, left = max(costs)
        missing = next(name for name in spec.modality_names if name not in left)
        harm = [
            f"{subset_name(fewer)} > {subset_name(subset)} ({dice[subset] - dice[fewer]:+.3f})"
            for fewer, subset in next_to
            if dice[subset] < dice[fewer]
        ]
        alone = [
            _gap(report, reports[ALONE], subset_name(single)) if ALONE in reports and variant != ALONE else "–"
            for single in singles
        ]
        lines.append(table_row(variant, f"{cost:.3f} ({missing})", ", ".join(harm) or "none", *alone))
    return lines


def _merged(spec: TaskSpec, units: Iterable[dict[str, Any]]) -> Scores:
    """Dice by case, subset and name, averaged over the seeds that scored the case."""
    every: dict[str, list[Any]] = {}
    for unit in units:
        for case_id, scores in unit["cases"].items():
            every.setdefault(case_id, []).append(scores)
    cases = {
        case_id: {
            subset: {name: mean([score[subset][name] for score in scored]) for name in scored[0][subset]}
            for subset in scored[0]
        }
        for case_id, scored in every.items()
    }
    return Scores.of(spec, cases)


def _gap(one: Scores, other: Scores, subset: str | None) -> str:
    gap = one.minus(other, subset)
    if gap is None or gap.interval is None:
        return "–"
    return f"{gap.difference:+.3f} ({gap.interval[0]:+.3f} to {gap.interval[1]:+.3f})"
