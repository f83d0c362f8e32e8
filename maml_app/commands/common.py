"""What commands share: their options, the cases that are meant, and the bar that they show."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from maml_app.cases.case import Case
from maml_app.cases.source import CaseSource, learnable
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError
from maml_app.stores.choice import choose_task, open_studies

# what is piped has the width that it needs: a table that wraps at 80 columns is nobody's input
PIPED_WIDTH = 1000
out = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
bars = Console(stderr=True)

Studies = Annotated[str, typer.Option(help="folder of NIfTI studies, a MONAI datalist JSON, or a DICOMweb address")]
TaskOption = Annotated[
    str, typer.Option(help="a shipped task's name or a path to a task.yaml; without it the one that fits the studies")
]
Cases = Annotated[str, typer.Option(help="only these cases: ids with commas between, or @FILE with one id a line")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts, and nothing else")]
Device = Annotated[str, typer.Option(help="cuda, cuda:1, cpu; without it the GPU if there is one")]


def open_task(studies: str, task: str) -> tuple[TaskSpec, CaseSource]:
    """The task for these studies, and where its cases live."""
    spec = choose_task(studies, task)
    return spec, open_studies(studies, spec)


def labelled_cases(source: CaseSource, spec: TaskSpec, cases: str = "") -> list[Case]:
    """The cases of `chosen_cases` that have a label which counts for learning."""
    counted = (learnable(case, spec) for case in chosen_cases(source, cases))
    return [case for case in counted if case.label is not None]


def chosen_cases(source: CaseSource, cases: str) -> list[Case]:
    """All cases, or those named with commas between or by @FILE.

    Raises:
        CaseError: there are none, a name is not among them, or a file that cannot be read.
    """
    every = source.cases()
    if not every:
        raise CaseError("expected cases among the studies, got none; maml-app check tells what lies there, and why")
    if not cases:
        return every
    try:
        text = Path(cases[1:]).read_text(encoding="utf-8") if cases.startswith("@") else cases
    except (OSError, ValueError) as error:
        raise CaseError(f"--cases {cases}: expected a text file with one id a line, got: {error}") from None
    wanted = text.replace(",", " ").split()
    known = {case.id: case for case in every}
    unknown = [case_id for case_id in wanted if case_id not in known]
    if unknown:
        raise CaseError(f"--cases: expected ids of the studies, got unknown {', '.join(unknown)}")
    return [known[case_id] for case_id in wanted]


def tell_unused_files(source: CaseSource, cases: str) -> int:
    """Say which files should have been used and are not, unless `cases` names what is meant; how many lines it took."""
    wrong = [] if cases else [files for files in source.unused() if files.wrong]
    for files in wrong:
        out.print(f"{files.where}: not used: {files.reason}", soft_wrap=True, markup=False, style="red")
    return len(wrong)


def print_json(content: Any) -> None:
    """The answer for a script."""
    typer.echo(json.dumps(content, indent=1))


def tell_unused(case_id: str, reason: str) -> None:
    """A case that cannot be used, told in the log."""
    out.print(f"{case_id} is not used: {reason}", soft_wrap=True, markup=False, style="red")


COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar; the function it gives is called with each case's id."""
    with Progress(*COLUMNS, console=bars, disable=out.quiet) as progress:
        task = progress.add_task(title, total=total)

        def tick(case_id: str) -> None:
            progress.update(task, advance=1, description=f"{title} {case_id}")

        yield tick
