"""An evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maml_app.cases.spec import TaskSpec


def markdown(report: dict[str, Any], spec: TaskSpec) -> str:
    """The report of `evaluate`, with `model` and perhaps `against` added, as Markdown tables."""
    names = list(spec.scored)
    lines = [
        f"# {spec.title}",
        "",
        f"Model `{report['model']['file']}` ({report['model']['network']}), {len(report['cases'])} cases. "
        "Mean Dice on the grid of each label; a case without a structure, in truth and answer, is not scored for it. "
        "Intervals: 95 % bootstrap over cases.",
        "",
        *_header("modalities", "cases", *names, "mean", "interval"),
    ]
    for subset, scores in report["subsets"].items():
        numbers = [_number(scores[name]) for name in [*names, "mean"]]
        lines.append(_row(subset, scores["cases"], *numbers, _between(scores["interval"])))
    blank = [""] * len(names)
    lines.append(_row("mean over subsets", "", *blank, _number(report["mean"]), _between(report["interval"])))
    if "against" in report:
        lines += ["", f"## Difference to `{report['against']['file']}`, paired by case", ""]
        lines += _header("modalities", "cases", "difference", "interval")
        for subset, scores in report["against"]["subsets"].items():
            between = _between(scores["interval"])
            lines.append(_row(subset, scores["cases"], f"{scores['difference']:+.3f}", between))
    lines += ["", "## Cases, all their modalities", "", *_header("case", "modalities", *names)]
    for case_id, scores in report["cases"].items():
        widest = max(scores, key=lambda subset: subset.count("+"))
        lines.append(_row(case_id, widest, *(_number(scores[widest][name]) for name in names)))
    return "\n".join(lines) + "\n"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _header(*cells: str) -> list[str]:
    return [_row(*cells), "|" + "---|" * len(cells)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _between(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
