"""An evaluation as Markdown, as a table for spreadsheets, and as one page of HTML that needs no other file."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from maml_app.cases.spec import TaskSpec

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:left}figure{margin:2em 0}img{max-width:100%}"
)


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
        *table_header("modalities", "cases", *names, "mean", "interval"),
    ]
    for subset, scores in report["subsets"].items():
        numbers = [_number(scores[name]) for name in [*names, "mean"]]
        lines.append(table_row(subset, scores["cases"], *numbers, _between(scores["interval"])))
    blank = [""] * len(names)
    lines.append(table_row("mean over subsets", "", *blank, _number(report["mean"]), _between(report["interval"])))
    if "measures" in report:
        heads = ("Dice", "NSD", "HD95, mm", "lesions found", "false positives", "volume error, ml", "bias, ml")
        lines += ["", "## Beyond Dice", ""]
        lines.append(
            f"NSD: normalised surface Dice at {spec.surface_tolerance_mm:g} mm. A structure missing in truth or answer "
            "alone has NSD 0 and the image's diagonal as HD95. Lesions are connected parts; found if a tenth is "
            "marked; false positives a case. Volume error: mean absolute, bias: mean."
        )
        lines += ["", *table_header("modalities", "structure", *heads)]
        for subset, by_name in report["measures"].items():
            for name, row in by_name.items():
                shown = [_number(row[key], 3) for key in ("dice", "nsd")] + [_number(row["hd95_mm"], 1)]
                shown += [_number(row["sensitivity"], 2), _number(row["false_positives"], 2)]
                shown += [_number(row[key], 1) for key in ("volume_error_ml", "volume_bias_ml")]
                lines.append(table_row(subset, name, *shown))
    if "against" in report:
        lines += ["", f"## Difference to `{report['against']['file']}`, paired by case", ""]
        lines += table_header("modalities", "cases", "difference", "interval")
        for subset, scores in report["against"]["subsets"].items():
            between = _between(scores["interval"])
            lines.append(table_row(subset, scores["cases"], f"{scores['difference']:+.3f}", between))
    lines += ["", "## Cases, all their modalities", "", *table_header("case", "modalities", *names)]
    for case_id, scores in report["cases"].items():
        widest = max(scores, key=lambda subset: subset.count("+"))
        lines.append(table_row(case_id, widest, *(_number(scores[widest][name]) for name in names)))
    return "\n".join(lines) + "\n"


def table(report: dict[str, Any]) -> str:
    """Every case, subset and structure with all measures, as CSV."""
    rows = [
        {"case": case_id, "modalities": subset, "structure": name, **scores}
        for case_id, by_subset in report["details"].items()
        for subset, by_name in by_subset.items()
        for name, scores in by_name.items()
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def page(text: str, title: str, figures: Mapping[str, bytes]) -> str:
    """The Markdown of an evaluation with figures (caption -> PNG) as one page of HTML."""
    from markdown import Markdown

    body = Markdown(extensions=["tables"]).convert(text)
    shown = "".join(
        f"<figure><img src='data:image/png;base64,{base64.b64encode(png).decode()}' alt='{html.escape(caption)}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, png in figures.items()
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style></head><body>{body}{shown}</body></html>"
    )


def table_row(*cells: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table_header(*cells: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [table_row(*cells), "|" + "---|" * len(cells)]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _between(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
