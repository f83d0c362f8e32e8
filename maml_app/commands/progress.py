"""The bar that commands show while they go through cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


@contextmanager
def progress_bar(out: Console, title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar; the function it gives is called with each case's id."""
    with Progress(*COLUMNS, console=out) as progress:
        task = progress.add_task(title, total=total)

        def tick(case_id: str) -> None:
            progress.update(task, advance=1, description=f"{title} {case_id}")

        yield tick
