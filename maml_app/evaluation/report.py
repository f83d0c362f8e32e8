"""An evaluation as Markdown, as a table for spreadsheets, and as one page of HTML that needs no other file."""

from __future__ import annotations

import base64
import csv
import html
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from maml_app.cases.spec import TaskSpec
from maml_app.evaluation.evaluate import Details
from maml_app.evaluation.metrics import Measures
from maml_app.evaluation.scores import Difference, number

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:left}figure{margin:2em 0}img{max-width:100%}"
)


@dataclass(frozen=True)
class Judged:
    """The model that was evaluated: its file's name, what network it is, and what is noted about its training.

    `trained_on`: ids of evaluated cases of patients that it was trained on, whose scores are no test.
    """

    file: str
    network: str
    notes: Mapping[str, Any]
    trained_on: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """An evaluation: of what, on what, when; `against`: another model's file, and the paired differences to it."""

    spec: TaskSpec
    studies: str
    model: Judged
    details: Details
    against: tuple[str, Mapping[str, Difference]] | None = None
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as report.json holds them."""
        content: dict[str, Any] = {
            "date": self.date,
            "studies": self.studies,
            "task": self.spec.name,
            "model": {
                "file": self.model.file,
                "network": self.model.network,
                "trained_on_scored_cases": list(self.model.trained_on),
                **self.model.notes,
            },
            **self.details.scores.as_dict(),
            "details": _plain(self.details.cases),
            "measures": _plain(self.details.means()),
        }
        if self.against:
            content["against"] = {"file": self.against[0], "subsets": _plain(self.against[1])}
        return content

    def markdown(self) -> str:
        """Tables: Dice under every subset, what is beyond Dice, the comparison, and every case."""
        scores, spec = self.details.scores, self.spec
        names = scores.scored
        lines = [
            f"# {spec.title}",
            "",
            f"{self.date}, studies `{self.studies}`, model `{self.model.file}` ({self.model.network}), "
            f"{len(scores.cases)} cases. "
            "Mean Dice on the grid of each label; a case without a structure, in truth and answer, is not scored for "
            "it. Intervals: 95 % bootstrap over patients.",
            "",
        ]
        if self.model.trained_on:
            lines += [
                f"**{len(self.model.trained_on)} of these cases are of patients that were trained on, their scores are "
                f"not a test:** {', '.join(self.model.trained_on)}.",
                "",
            ]
        lines += table_header("modalities", "cases", *names, "mean", "interval")
        for subset, row in scores.subsets.items():
            numbers = [number(value) for value in (*row.dice.values(), row.mean)]
            lines.append(table_row(subset, row.cases, *numbers, _between(row.interval)))
        blank = [""] * len(names)
        lines.append(table_row("mean over subsets", "", *blank, number(scores.mean), _between(scores.interval)))
        lines += ["", *self._beyond_dice()]
        if self.against:
            lines += ["", f"## Difference to `{self.against[0]}`, paired by case", ""]
            lines += ["Where one of the two rightly finds nothing and the other something, the first has Dice 1.", ""]
            lines += table_header("modalities", "cases", "difference", "interval")
            for subset, gap in self.against[1].items():
                lines.append(table_row(subset, gap.cases, f"{gap.difference:+.3f}", _between(gap.interval)))
        lines += ["", "## Cases, all their modalities", "", *table_header("case", "modalities", *names)]
        for case_id, dice in scores.cases.items():
            used = scores.all_of(case_id)
            lines.append(table_row(case_id, used, *(number(dice[used][name]) for name in names)))
        return "\n".join(lines) + "\n"

    def _beyond_dice(self) -> list[str]:
        heads = ("Dice", "NSD", "HD95, mm", "lesions found", "false positives", "volume error, ml", "bias, ml")
        lines = [
            "## Beyond Dice",
            "",
            f"NSD: normalised surface Dice at {self.spec.surface_tolerance_mm:g} mm. A structure missing in truth or "
            "answer alone has NSD 0 and the image's diagonal as HD95. Lesions are connected parts; found if a tenth is "
            "marked; false positives a case. Volume error: mean absolute, bias: mean.",
            "",
            *table_header("modalities", "structure", *heads),
        ]
        for subset, by_name in self.details.means().items():
            for name, row in by_name.items():
                shown = [number(row.dice), number(row.nsd), number(row.hd95_mm, 1)]
                shown += [number(row.sensitivity, 2), number(row.false_positives, 2)]
                shown += [number(row.volume_error_ml, 1), number(row.volume_bias_ml, 1)]
                lines.append(table_row(subset, name, *shown))
        return lines

    def spreadsheet(self) -> str:
        """Every case, subset and structure with all measures, as CSV."""
        heads = ["case", "modalities", "structure", *(field.name for field in fields(Measures))]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, heads, lineterminator="\n")
        writer.writeheader()
        for case_id, by_subset in self.details.cases.items():
            for subset, by_name in by_subset.items():
                for name, measures in by_name.items():
                    head = {"case": case_id, "modalities": subset, "structure": name}
                    writer.writerow({**head, **asdict(measures)})
        return buffer.getvalue()


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of mappings with dataclasses as leaves, as plain values."""
    return {key: _plain(value) if isinstance(value, Mapping) else asdict(value) for key, value in values.items()}


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


def _between(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
