"""`python -m maml_app check` for a DICOM archive, and `import-labels`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from maml_app.errors import CaseError, StudiesError
from maml_app.stores.choice import choose_task, is_archive, open_archive

if TYPE_CHECKING:
    from maml_app.stores.dicomweb import DicomWebStore
    from maml_app.stores.examinations import Examination

out = Console()


def print_series(store: DicomWebStore) -> None:
    """Each series with its modality, its score and why; and the SEGs, with what they count as."""
    for examination in store.examinations():
        out.print(f"\n[bold]{examination.id}[/bold]  patient {examination.patient or 'unknown'}", soft_wrap=True)
        for choice in examination.choices:
            series, name = choice.series, choice.modality or "–"
            line = f"{name:>14} {choice.score or '':>3}  {series.modality} {series.name}, {series.images} images: "
            out.print(line + "; ".join(choice.reasons), soft_wrap=True, markup=False)
            out.print(f"{'':>20}{series.key}", style="dim", soft_wrap=True)
        for line in _segs(examination, store):
            out.print(line, soft_wrap=True, markup=False)
        for name, reason in examination.left_out.items():
            out.print(f"{'!':>14}      {name}: {reason}", soft_wrap=True, markup=False, style="red")
        for note in examination.notes:
            out.print(f"{'!':>14}      {note}", soft_wrap=True, markup=False, style="yellow")
        if not examination.series:
            out.print(f"{'':>20}no series is one of {', '.join(store.spec.modality_names)}: no case")
    file = store.cache.folder / "assign.json"
    out.print(f"\nTo set a series by hand, write {file}: {{SERIES or SERIES#PART: modality or null}}\n", soft_wrap=True)


def _segs(examination: Examination, store: DicomWebStore) -> list[str]:
    lines = []
    for info in examination.segs:
        counts = "–"
        if info.ours and info.task == store.spec.name:
            counts = "proposal" if info.drawn == "AUTOMATIC" else "label"
            why = info.drawn.lower()
        elif info.ours:
            why = f"of another task, {info.task}"
        else:
            counts = "label" if store.labels.foreign and info.drawn != "AUTOMATIC" else "–"
            why = "by other software: import-labels takes it over, or the server with --conf foreign_segs use"
        lines.append(f"{counts:>14}      SEG {info.instance}: {why}")
    return lines


def import_labels(
    studies: Annotated[str, typer.Option(help="a DICOMweb address")],
    folder: Annotated[
        Path | None, typer.Option("--from", help="folder of RTSTRUCT or SEG files; without it those in the archive")
    ] = None,
    task: Annotated[str, typer.Option(help="a shipped task's name or a path to a task.yaml")] = "",
    region: Annotated[
        list[str] | None, typer.Option(help="NAME=LABEL: which label a region is; NAME may hold *; may be repeated")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="also for cases that have a label; it becomes a newer version")
    ] = False,
) -> None:
    """Take over contours (RTSTRUCT), or SEGs by other software, as final labels: one a case."""
    from maml_app.stores.imports import import_labels as run

    if not is_archive(studies):
        raise StudiesError(f"{studies}: expected a DICOMweb address; a folder's labels are read where they lie")
    spec = choose_task(studies, task)
    store = open_archive(studies, spec)
    names = {}
    for pair in region or []:
        name, _, label = pair.partition("=")
        if spec.value_of(label) is None:
            raise CaseError(
                f"--region {pair}: expected NAME=LABEL with a label of {[label.name for label in spec.labels]}"
            )
        names[name] = label
    stored = failed = 0
    for result in run(store, folder, names, again):
        stored += bool(result.stored)
        failed += not result.stored and "already" not in result.reason
        out.print(f"{result.case}: {result.stored or 'not stored'}: {result.reason}", soft_wrap=True, markup=False)
    out.print(f"{stored} labels stored")
    raise typer.Exit(1 if failed else 0)
