"""What commands share: their options, what they print to, and the bar that they show. Quick to import."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from maml_app.errors import SettingsError

# what is piped has the width that it needs: a table that wraps at 80 columns is nobody's input
PIPED_WIDTH = 1000
MAX_SEED = 2**32 - 1
out = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
bars = Console(stderr=True)

Studies = Annotated[str, typer.Option(help="folder of NIfTI studies, a MONAI datalist JSON, or a DICOMweb address")]
TaskOption = Annotated[
    str, typer.Option(help="a shipped task's name or a path to a task.yaml; without it the one that fits the studies")
]
Cases = Annotated[str, typer.Option(help="only these cases: ids with commas between, or @FILE with one id a line")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts, and nothing else")]
Device = Annotated[str, typer.Option(help="cuda, cuda:1, cpu; without it the GPU if there is one")]


def ready_folder(folder: Path) -> None:
    """Make the folder of --out, before the work whose results it is for.

    Raises:
        SettingsError: it cannot be made, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        told = f"expected a folder that can be written to, got {folder} ({error.strerror})"
        raise SettingsError(f"--out: {told}") from None


def ready_file(file: Path) -> None:
    """As `ready_folder`, for a file that is written or replaced."""
    if file.is_dir():
        raise SettingsError(f"--out: expected a file, got the folder {file}")
    ready_folder(file.parent)


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
