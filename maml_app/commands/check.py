"""`maml-app check`: each case, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.commands.archive import print_series
from maml_app.commands.common import Json, Studies, TaskOption, out, print_json, progress_bar
from maml_app.commands.opening import open_task
from maml_app.stores.choice import is_archive, open_archive

if TYPE_CHECKING:
    from maml_app.imaging.check import Finding


@dataclass(frozen=True)
class _Row:
    """A case as it is shown: the modalities that it lacks, or that are left out, beside what was found."""

    finding: Finding
    missing: list[str]

    def as_dict(self) -> dict[str, Any]:
        case = self.finding.case
        return {
            "case": case.id,
            "patient": case.patient_id,
            "images": {name: str(grid) for name, grid in self.finding.grids.items()},
            "missing": self.missing,
            "label": self.finding.label if case.label else None,
            "problems": list(self.finding.problems),
            "notes": list(self.finding.notes),
        }


def check(
    studies: Studies,
    task: TaskOption = "",
    as_json: Json = False,
    read: Annotated[bool, typer.Option("--read/--no-read", help="of an archive, only list the series")] = True,
) -> None:
    """Print each case: patient, modalities, grids, label and what is wrong; and what lies there and is not used, with
    the reason; of an archive each series, and why it is used.

    Exit code 1 if anything is wrong.
    """
    spec, source = open_task(studies, task)
    if is_archive(studies) and not as_json:
        print_series(open_archive(studies, spec))
        if not read:
            listed = source.cases()
            told = [*(case.left_out or case.problems for case in listed), *(file.wrong for file in source.unused())]
            raise typer.Exit(1 if any(told) or not listed else 0)
    rows, meanings = _read(source, spec)
    unused = source.unused()
    if as_json:
        files = [{"where": str(file.where), "reason": file.reason, "wrong": file.wrong} for file in unused]
        content = {"task": spec.name, "cases": [row.as_dict() for row in rows], "label_values": meanings}
        print_json({**content, "unused": files})
    else:
        out.print(_table(f"{studies}: {len(rows)} cases, task {spec.name}", rows))
        for line in meanings:
            out.print(f"Label values: {line}", soft_wrap=True, markup=False)
        if unused:
            out.print("Files that look like images or labels and are not used:")
        for file in unused:
            style = "red" if file.wrong else "dim"
            out.print(f"  {file.where}: {file.reason}", soft_wrap=True, markup=False, style=style)
        _summary(rows, sum(file.wrong for file in unused), spec)
    bad = any(row.finding.problems for row in rows) or any(file.wrong for file in unused)
    raise typer.Exit(1 if bad or not rows else 0)


def _read(source: CaseSource, spec: TaskSpec) -> tuple[list[_Row], list[str]]:
    """Every case, read; and what the values of their labels mean, by which evidence."""
    from maml_app.imaging.check import inspect

    cases, rows, meanings = source.cases(), [], set()
    with progress_bar("reading", len(cases)) as tick:
        for case in cases:
            finding = inspect(case, spec)
            if case.label and case.label.meaning and not finding.refused:
                meanings.add(case.label.meaning().source)
            missing = [name for name in spec.modality_names if name not in finding.grids]
            shown = [f"{name} (left out)" if name in finding.left_out else name for name in missing]
            rows.append(_Row(finding, shown))
            tick(case.id)
    return rows, sorted(meanings)


def _table(title: str, rows: list[_Row]) -> Table:
    table = Table(title=title, show_lines=True)
    for heading in ("case", "patient", "images", "missing", "label", "problems"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        finding, case = row.finding, row.finding.case
        table.add_row(
            case.id,
            case.patient_id,
            "\n".join(f"{name}: {grid}" for name, grid in finding.grids.items()) or "–",
            ", ".join(row.missing) or "–",
            finding.label,
            Text("\n").join([*map(Text, finding.problems), *(Text(note, "dim") for note in finding.notes)]) or "–",
        )
    return table


def _summary(rows: list[_Row], wrong: int, spec: TaskSpec) -> None:
    cases = [row.finding.case for row in rows]
    if not cases:
        out.print(f"No case: expected file names as in {[m.files for m in spec.modalities]}, see docs/studies.md.")
    labelled, bad = sum(case.label is not None for case in cases), sum(bool(row.finding.problems) for row in rows)
    if labelled and all(row.finding.label.endswith(": empty") for row in rows if row.finding.case.label):
        out.print("Every label is empty: there is nothing to learn from.", style="red")
    patients = len({case.patient_id for case in cases})
    told = f"; {wrong} lines above name files that should be used" if wrong else ""
    out.print(f"{len(cases)} cases, {labelled} labelled, {bad} with problems; {patients} patients{told}")
