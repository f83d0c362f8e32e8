"""`python -m maml_app correct --simulate`: what clicks are worth, played on labelled cases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from maml_app.commands.common import Cases, Device, Json, Studies, TaskOption, out, print_json, progress_bar
from maml_app.commands.opening import labelled_cases, open_task
from maml_app.errors import MamlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maml_app.correcting.annotator import Session

SHOWN = (0, 1, 3, 5, 10)


def correct(
    studies: Studies,
    simulate: Annotated[bool, typer.Option("--simulate", help="play an annotator on labelled cases")] = False,
    model: Annotated[Path | None, typer.Option(help="a model file; without it clicks start from nothing")] = None,
    task: TaskOption = "",
    cases: Cases = "",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="clicks a label")] = 10,
    scribbles: Annotated[bool, typer.Option("--scribbles", help="draw lines on slices in place of clicks")] = False,
    only: Annotated[str, typer.Option(help="the one modality that clicks look at; without it all of them")] = "",
    device: Device = "",
    as_json: Json = False,
) -> None:
    """Click on labelled cases as an annotator would, always into the largest error, and print what it brings.

    The cases should be none that the model was trained on. Clicks and scribbles of people are a server's: see
    docs/interactive.md.
    """
    from maml_app.correcting.annotator import Annotator, next_click, next_scribble
    from maml_app.correcting.correct import Corrector
    from maml_app.versions.predict import load_model, pick_device

    if not simulate:
        raise MamlError("expected --simulate: people click in a viewer, and the server answers them")
    spec, source = open_task(studies, task)
    if only and only not in spec.modality_names:
        raise MamlError(f"--only: expected one of {list(spec.modality_names)}, got {only!r}")
    loaded = load_model(model, spec, model.name, pick_device(device)) if model else None
    draw = next_scribble if scribbles else next_click
    annotator = Annotator(Corrector(spec, (only,) if only else ()), loaded, rounds, draw)
    chosen = labelled_cases(source, spec, cases)
    sessions: list[Session] = []
    with progress_bar("clicking", len(chosen)) as tick:
        for case in chosen:
            tick(case.id)
            sessions += annotator.play_case(case)
    if as_json:
        print_json([{**asdict(session), "harmful": session.harmful} for session in sessions])
        return
    what = "scribbles" if scribbles else "clicks"
    out.print(_table(sessions, rounds, what))
    clicks, harmful = sum(session.clicks for session in sessions), sum(session.harmful for session in sessions)
    out.print(f"{harmful} of {clicks} {what} made it worse")


def _table(sessions: Sequence[Session], rounds: int, what: str) -> Table:
    shown = [count for count in SHOWN if count <= rounds]
    table = Table(title=f"Dice after so many {what}")
    for heading in ("label", "cases", *map(str, shown)):
        table.add_column(heading)
    for label in dict.fromkeys(session.label for session in sessions):
        of_label = [session for session in sessions if session.label == label]
        means = [sum(session.dice[count] for session in of_label) / len(of_label) for count in shown]
        table.add_row(label, str(len(of_label)), *(f"{mean:.3f}" for mean in means))
    return table
