"""What a simulated annotation shows: learning curves, the area under them, and the labels saved against random.

A curve has one row for each number of labels; see `simulate.simulate`. Intervals: 95 % bootstrap over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maml_app.disk import write_atomically
from maml_app.evaluation.metrics import bootstrap_interval
from maml_app.evaluation.report import table_header, table_row
from maml_app.imaging.volume import Array

STANDS_STILL, ROUNDS = 0.01, 2  # so little Dice in each of so many rounds in a row: more labels hardly help
MEASURES = {"full": "all modalities", "mean": "mean over subsets of modalities"}
DRAWS = 2000

Rows = list[dict[str, Any]]


def measured(curves: Mapping[str, list[Rows]]) -> dict[str, str]:
    """Those of MEASURES that every row has: all modalities have no Dice where no test case has them all."""
    rows = [row for seeds in curves.values() for rows in seeds for row in rows]
    return {measure: words for measure, words in MEASURES.items() if all(row[measure] is not None for row in rows)}


def area(rows: Rows, measure: str) -> float:
    """Area under the budget curve: the mean Dice over the number of labels, trapezoidal."""
    labels, dice = [row["labels"] for row in rows], [row[measure] for row in rows]
    return float(np.trapz(dice, labels) / (labels[-1] - labels[0])) if len(rows) > 1 else float(dice[0])


def area_by_effort(rows: Rows, measure: str, end_m: float) -> float:
    """The mean Dice over the contours drawn, from the first model to `end_m` metres; between rounds by a line."""
    path, dice = [row["path_m"] for row in rows], [row[measure] for row in rows]
    if end_m <= path[0]:
        return float(dice[0])
    points = [path[0], *(at for at in path[1:] if at < end_m), end_m]
    return float(np.trapz(np.interp(points, path, dice), points) / (end_m - path[0]))


def stands_still(curve: Sequence[float], labels: Sequence[int]) -> int | None:
    """After how many labels one could have stopped: several rounds in a row gained less than `STANDS_STILL`."""
    gains = np.diff(curve) < STANDS_STILL
    for place in range(ROUNDS, len(curve)):
        if gains[place - ROUNDS : place].all():
            return labels[place]
    return None


def labels_to_reach(curve: Sequence[float], labels: Sequence[int], goal: float) -> float:
    """Where a curve first reaches a Dice, between rounds by a straight line; infinite if it does not."""
    for place, dice in enumerate(curve):
        if dice >= goal:
            if place == 0:
                return float(labels[0])
            before = curve[place - 1]
            share = (goal - before) / (dice - before)
            return labels[place - 1] + share * (labels[place] - labels[place - 1])
    return math.inf


def saving(curves: Mapping[str, list[Rows]], name: str, measure: str) -> dict[str, Any]:
    """Labels after which the mean curve of a strategy reaches the Dice that random has at its end.

    Returns `labels` (None: not reached) and `interval`, percentiles over seeds drawn again (None: not reached).
    """
    labels = [row["labels"] for row in curves["random"][0]]
    ours, theirs = (
        np.array([[row[measure] for row in rows] for rows in curves[strategy]]) for strategy in (name, "random")
    )
    seeds = len(ours)
    draws = np.random.default_rng(0).integers(0, seeds, (DRAWS, seeds))
    goals, means = theirs[draws, -1].mean(axis=1), ours[draws].mean(axis=1)
    reached = [labels_to_reach(list(curve), labels, goal) for curve, goal in zip(means, goals, strict=True)]
    low, high = np.percentile(reached, [2.5, 97.5], method="nearest")
    found = labels_to_reach(list(ours.mean(axis=0)), labels, float(theirs[:, -1].mean()))
    return {"labels": _finite(found), "interval": (_finite(low), _finite(high))}


def summarise_curves(curves: Mapping[str, list[Rows]]) -> dict[str, Any]:
    """By measure and strategy, of those `measured`: the area, difference to random (paired by seed), and saving."""
    result: dict[str, Any] = {}
    for measure in measured(curves):
        areas = {name: [area(rows, measure) for rows in seeds] for name, seeds in curves.items()}
        # of each seed, as far as every strategy has drawn
        ends = [
            min(seeds[seed][-1]["path_m"] for seeds in curves.values())
            for seed in range(len(next(iter(areas.values()))))
        ]
        efforts = {
            name: [area_by_effort(rows, measure, end) for rows, end in zip(seeds, ends, strict=True)]
            for name, seeds in curves.items()
        }
        result[measure] = {}
        for name, values in areas.items():
            row: dict[str, Any] = {"area": float(np.mean(values)), "interval": bootstrap_interval(values)}
            for rival in ("random", "foreground_random"):
                if rival in areas and rival != name:
                    row[f"minus_{rival}"] = _difference(values, areas[rival])
            if "random" in areas and name != "random":
                row["by_effort_minus_random"] = _difference(efforts[name], efforts["random"])
            labels = [entry["labels"] for entry in curves[name][0]]
            row["stands_still"] = stands_still(_table(curves[name], measure).mean(axis=0), labels)
            if "random" in curves:
                row["saving"] = saving(curves, name, measure)
            result[measure][name] = row
    return result


def _difference(values: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Of areas, paired by seed."""
    differences = [area - other for area, other in zip(values, others, strict=True)]
    return {"area": float(np.mean(differences)), "interval": bootstrap_interval(differences)}


def curves_markdown(curves: Mapping[str, list[Rows]], summary: Mapping[str, Any], head: str) -> str:
    """The curves as Markdown tables; `head` says what was played."""
    first = next(iter(curves.values()))
    labels = [row["labels"] for row in first[0]]
    lines = ["# Simulated annotation", "", head, "", "![curves](curves.png)", ""]
    for measure, words in MEASURES.items():
        lines += [f"## Dice of the test cases, {words}", ""]
        if measure not in summary:
            lines += ["Left out: after some rounds no test case could be scored for it.", ""]
            continue
        lines += table_header("strategy", *(f"{count} labels" for count in labels), "ml labelled", "m drawn")
        for name, seeds in curves.items():
            means = _table(seeds, measure).mean(axis=0)
            drawn, path = (np.mean([rows[-1][what] for rows in seeds]) for what in ("drawn_ml", "path_m"))
            lines.append(table_row(name, *(f"{value:.3f}" for value in means), f"{drawn:.0f}", f"{path:.1f}"))
        lines += [
            "",
            *table_header(
                "strategy",
                "area",
                "minus random",
                "minus foreground_random",
                "by effort, minus random",
                "labels for random's end",
                "stands still at",
            ),
        ]
        for name, row in summary[measure].items():
            rivals = ("minus_random", "minus_foreground_random", "by_effort_minus_random")
            cells = [f"{row['area']:.3f}{_between(row['interval'])}", *(_signed(row.get(rival)) for rival in rivals)]
            lines.append(table_row(name, *cells, _reached(row, labels[-1]), str(row["stands_still"] or "–")))
        lines.append("")
    lines.append(
        "Area: mean Dice over the number of labels. Labels for random: after how many labels the mean curve "
        "reaches the Dice that random has at its last round. m drawn: the contours that the annotator draws where the "
        "model's proposal has none (added path length); by effort: mean Dice over these metres. Stands still: after "
        f"how many labels {ROUNDS} rounds in a row had gained less than {STANDS_STILL}. In brackets 95 % bootstrap "
        "intervals over seeds."
    )
    return "\n".join(lines) + "\n"


def draw_curves(path: Path, curves: Mapping[str, list[Rows]]) -> None:
    """Write the curves as PNG: Dice over labels, and over the contours drawn for them; bands are standard errors.

    Dice is of all modalities, or the mean over subsets where that is left out; without either the axes stay empty.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    measure, words = next(iter(measured(curves).items()), ("", "none could be scored"))
    for name, seeds in curves.items() if measure else ():
        labels = [row["labels"] for row in seeds[0]]
        dice = _table(seeds, measure)
        mean, error = dice.mean(axis=0), dice.std(axis=0) / math.sqrt(len(dice))
        (line,) = left.plot(labels, mean, marker="o", label=name)
        left.fill_between(labels, mean - error, mean + error, alpha=0.12, color=line.get_color())
        right.plot(_table(seeds, "path_m").mean(axis=0), mean, marker="o", label=name, color=line.get_color())
    left.set(xlabel="labelled cases", ylabel=f"Dice of the test cases, {words}")
    right.set(xlabel="contours drawn by annotators, m")
    if measure:
        left.legend()
    write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=100))


def _table(seeds: Sequence[Rows], measure: str) -> Array:
    """Seeds by rounds."""
    return np.array([[row[measure] for row in rows] for rows in seeds])


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _signed(rival: Mapping[str, Any] | None) -> str:
    return "–" if rival is None else f"{rival['area']:+.3f}{_between(rival['interval'])}"


def _reached(row: Mapping[str, Any], last: int) -> str:
    if "saving" not in row:
        return "–"
    labels, (low, high) = row["saving"]["labels"], row["saving"]["interval"]
    shown = [f"> {last}" if value is None else f"{value:.1f}" for value in (labels, low, high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
