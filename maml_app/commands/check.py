"""`python -m maml_app check`: each case, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from maml_app.commands.archive import print_series
from maml_app.commands.common import Studies, TaskOption, open_task, out, progress_bar
from maml_app.stores.choice import is_archive, open_archive


def check(
    studies: Studies,
    task: TaskOption = "",
    read: Annotated[bool, typer.Option("--read/--no-read", help="of an archive, only list the series")] = True,
) -> None:
    """Print each case: modalities, grids, label and what is wrong; of an archive also each series, and why it is used.

    Exit code 1 if anything is wrong.
    """
    from maml_app.imaging.check import inspect

    spec, source = open_task(studies, task)
    if is_archive(studies):
        print_series(open_archive(studies, spec))
        if not read:
            raise typer.Exit(0 if source.cases() else 1)
    cases = source.cases()
    table = Table(title=f"{studies}: {len(cases)} cases, task {spec.name}", show_lines=True)
    for heading in ("case", "images", "missing", "label", "problems"):
        table.add_column(heading, overflow="fold")
    bad = 0
    with progress_bar("reading", len(cases)) as tick:
        for case in cases:
            finding = inspect(case, spec)
            bad += bool(finding.problems)
            grids = {name: str(finding.grids.get(name, "not readable")) for name in case.images}
            table.add_row(
                case.id,
                "\n".join(f"{name}: {grid}" for name, grid in grids.items()),
                ", ".join(case.missing(spec.modality_names)) or "–",
                finding.label,
                "\n".join([*finding.problems, *(f"[dim]{note}[/dim]" for note in finding.notes)]) or "–",
            )
            tick(case.id)
    out.print(table)
    if not cases:
        out.print(f"No case: expected file names as in {[m.files for m in spec.modalities]}, see the README.")
    out.print(f"{len(cases)} cases, {sum(c.label is not None for c in cases)} labelled, {bad} with problems")
    raise typer.Exit(1 if bad or not cases else 0)
