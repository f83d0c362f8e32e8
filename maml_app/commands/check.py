"""`python -m maml_app check`: each case, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from maml_app.commands.archive import print_series
from maml_app.commands.common import Studies, TaskOption, open_task, out, progress_bar
from maml_app.stores.choice import is_archive, open_archive


def check(
    studies: Studies,
    task: TaskOption = "",
    read: Annotated[bool, typer.Option("--read/--no-read", help="of an archive, only list the series")] = True,
) -> None:
    """Print each case: patient, modalities, grids, label and what is wrong; and what lies there and is not used, with
    the reason; of an archive each series, and why it is used.

    Exit code 1 if anything is wrong.
    """
    from maml_app.imaging.check import inspect

    spec, source = open_task(studies, task)
    if is_archive(studies):
        print_series(open_archive(studies, spec))
        if not read:
            listed = source.cases()
            told = [*(case.left_out or case.problems for case in listed), *(one.wrong for one in source.unused())]
            raise typer.Exit(1 if any(told) or not listed else 0)
    cases = source.cases()
    table = Table(title=f"{studies}: {len(cases)} cases, task {spec.name}", show_lines=True)
    for heading in ("case", "patient", "images", "missing", "label", "problems"):
        table.add_column(heading, overflow="fold")
    bad, sources = 0, set[str]()
    with progress_bar("reading", len(cases)) as tick:
        for case in cases:
            finding = inspect(case, spec)
            bad += bool(finding.problems)
            if case.label and case.label.meaning and not finding.refused:
                sources.add(case.label.meaning().source)
            lacks = [
                f"{name} (left out)" if name in finding.left_out else name
                for name in spec.modality_names
                if name not in finding.grids
            ]
            table.add_row(
                case.id,
                case.patient_id,
                "\n".join(f"{name}: {grid}" for name, grid in finding.grids.items()) or "–",
                ", ".join(lacks) or "–",
                finding.label,
                Text("\n").join([*map(Text, finding.problems), *(Text(note, "dim") for note in finding.notes)]) or "–",
            )
            tick(case.id)
    out.print(table)
    for line in sorted(sources):
        out.print(f"Label values: {line}", soft_wrap=True, markup=False)
    unused = source.unused()
    if unused:
        out.print("Files that look like images or labels and are not used:")
        for one in unused:
            out.print(f"  {one.where}: {one.reason}", soft_wrap=True, markup=False, style="red" if one.wrong else "dim")
    wrong = sum(one.wrong for one in unused)
    if not cases:
        out.print(f"No case: expected file names as in {[m.files for m in spec.modalities]}, see docs/studies.md.")
    patients = len({case.patient_id for case in cases})
    counts = f"{len(cases)} cases, {sum(case.label is not None for case in cases)} labelled, {bad} with problems"
    out.print(
        f"{counts}; {patients} patients" + (f"; {wrong} lines above name files that should be used" if wrong else "")
    )
    raise typer.Exit(1 if bad or wrong or not cases else 0)
