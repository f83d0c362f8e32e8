"""`python -m maml_app labels …`: the history of labels, what people decide about them, and data sets made of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from maml_app.cases.history import Recorded, Told
from maml_app.commands.common import Json, Studies, TaskOption, out, print_json
from maml_app.commands.opening import open_task
from maml_app.errors import MamlError, StudiesError

labels_app = typer.Typer(
    help="The labels: their history, reviews, numbers, data sets made of them, and a backup.", no_args_is_help=True
)

OneCase = Annotated[str, typer.Option("--case", help="only this case")]
By = Annotated[str, typer.Option("--by", help="who says so")]
Comment = Annotated[str, typer.Option("--comment", help="why")]


@labels_app.command("list")
def labels_list(studies: Studies, task: TaskOption = "", case: OneCase = "", as_json: Json = False) -> None:
    """Print every label: whose, when, from what, how much was corrected, and what it counts for."""
    _, source = open_task(studies, task)
    histories = {case: source.history(source.case(case).id)} if case else source.histories()
    found = [label for of_case in histories.values() for label in of_case]
    if as_json:
        print_json([{**label.entry.model_dump(mode="json"), "state": label.state.value} for label in found])
        return
    table = Table()
    for heading in ("case", "label", "state", "by", "saved", "from", "minutes", "changed ml", "comment"):
        table.add_column(heading, overflow="fold")
    for label in found:
        entry = label.entry
        said = [entry.comment, *(decision.comment for decision in label.decisions)]
        table.add_row(
            entry.case,
            entry.label,
            label.state.value,
            entry.author or "–",
            f"{entry.saved:%Y-%m-%d %H:%M}",
            entry.proposal.model or entry.restores or entry.parent or "–",
            "–" if entry.seconds is None else f"{entry.seconds / 60:.1f}",
            f"{_changed_ml(label):.2f}" if entry.changes else "–",
            "; ".join(filter(None, said)),
        )
    out.print(table)


def _changed_ml(label: Recorded) -> float:
    return sum(change.ml for change in label.entry.changes.values())


@labels_app.command("diff")
def labels_diff(
    case: str,
    label: str,
    other: str,
    studies: Studies,
    task: TaskOption = "",
    picture: Annotated[Path | None, typer.Option(help="also draw the slice where they differ most, PNG")] = None,
    as_json: Json = False,
) -> None:
    """Print how far a label is from another one of its case."""
    from maml_app.imaging.labels import read_stored_label
    from maml_app.labelling.comparing import changes
    from maml_app.labelling.picture import draw_difference
    from maml_app.labelling.saving import find_label

    spec, source = open_task(studies, task)
    found = source.case(case)
    first, second = (read_stored_label(find_label(found, name), spec) for name in (label, other))
    told = changes(first, second, spec)
    if picture:
        draw_difference(found, first, second, spec, picture)
    if as_json:
        print_json({name: change.model_dump() for name, change in told.items()})
        return
    table = Table(title=f"{case}: {label} against {other}")
    for heading in ("label", "Dice", "surface Dice", "voxels that differ", "ml", "added path, mm"):
        table.add_column(heading)
    for name, change in told.items():
        numbers = ["–" if value is None else f"{value:.3f}" for value in (change.dice, change.surface_dice)]
        table.add_row(name, *numbers, str(change.voxels), f"{change.ml:.2f}", f"{change.added_path_mm:.0f}")
    out.print(table)


def _judge(studies: str, task: str, case: str, label: str, verdict: str, by: str, comment: str) -> None:
    from maml_app.labelling.review import Judgement, Verdict, judge

    spec, source = open_task(studies, task)
    decision = judge(source, spec, case, label, Judgement(Verdict(verdict), by, comment))
    out.print(f"{case}: {label} is {decision.state.value}")


@labels_app.command("approve")
def labels_approve(
    case: str, label: str, studies: Studies, task: TaskOption = "", by: By = "", comment: Comment = ""
) -> None:
    """Say that a label is right; where the task asks for a review, it trains from now on."""
    _judge(studies, task, case, label, "approve", by, comment)


@labels_app.command("reject")
def labels_reject(
    case: str, label: str, studies: Studies, task: TaskOption = "", by: By = "", comment: Comment = ""
) -> None:
    """Say that a label is wrong, and why; it is kept and does not count."""
    _judge(studies, task, case, label, "reject", by, comment)


@labels_app.command("withdraw")
def labels_withdraw(
    case: str, label: str, studies: Studies, task: TaskOption = "", by: By = "", comment: Comment = ""
) -> None:
    """Take a label back, as when it was saved on the wrong case; it is kept and does not count."""
    _judge(studies, task, case, label, "withdraw", by, comment)


@labels_app.command("restore")
def labels_restore(
    case: str, label: str, studies: Studies, task: TaskOption = "", by: By = "", comment: Comment = ""
) -> None:
    """Save an earlier version anew, as the newest."""
    from maml_app.labelling.saving import restore

    spec, source = open_task(studies, task)
    entry = restore(source, spec, case, label, Told(author=by, comment=comment, client="command line"))
    out.print(f"{case}: {entry.label} repeats {label}")


@labels_app.command("stats")
def labels_stats(studies: Studies, task: TaskOption = "", as_json: Json = False) -> None:
    """Print how far the campaign is, who did what, and whether the model saves work, month by month."""
    from maml_app.labelling.overview import agreements, months, overview

    spec, source = open_task(studies, task)
    cases, histories = source.cases(), source.histories()
    found = overview(cases, histories, spec)
    by_month = months(histories)
    read_twice = agreements(source, histories, spec)
    if as_json:
        names = ("cases", "labelled", "reviewed", "people", "minutes", "changed_ml")
        told = {name: getattr(found, name) for name in names}
        waiting = {"to_review": len(found.to_review), "contested": len(found.contested)}
        readings = [
            {**asdict(row), "changes": {name: change.model_dump() for name, change in row.changes.items()}}
            for row in read_twice
        ]
        print_json({**told, **waiting, "months": [asdict(row) for row in by_month], "agreement": readings})
        return
    out.print(
        f"{found.labelled} of {found.cases} cases have a label, {found.reviewed} of them reviewed; "
        f"{len(found.to_review)} labels wait for a review, {len(found.contested)} for a choice",
        soft_wrap=True,
    )
    out.print("labels by " + (", ".join(f"{name}: {count}" for name, count in found.people.items()) or "nobody yet"))
    table = Table(title="labels that started from a proposal, medians")
    for heading in ("month", "labels", "minutes", "changed ml", "Dice", "added path, mm"):
        table.add_column(heading)
    for row in by_month:
        numbers = [row.minutes, row.changed_ml, row.dice, row.added_path_mm]
        table.add_row(row.month, str(row.labels), *("–" if value is None else f"{value:.2f}" for value in numbers))
    out.print(table)
    for reading in read_twice:
        shown = "; ".join(f"{name}: Dice {change.dice or 0:.2f}" for name, change in reading.changes.items())
        out.print(f"{reading.case}: {' and '.join(reading.authors)} agree by {shown}", soft_wrap=True)


@labels_app.command("export")
def labels_export(
    out_dir: Annotated[Path, typer.Argument(help="the folder to make")],
    studies: Studies,
    to: Annotated[str, typer.Option("--to", help="nnunet, msd, brats, bids; of an archive also seg, rtstruct")],
    task: TaskOption = "",
    reviewed: Annotated[bool, typer.Option(help="only labels that someone approved")] = False,
    link: Annotated[bool, typer.Option(help="hard links to images instead of copies, where that can be")] = False,
    anonymous: Annotated[bool, typer.Option(help="no names of annotators in the table")] = False,
) -> None:
    """Write all final labels with their images as a data set, and a table of where each label comes from.

    Exit code 1 if a label or an image could not be taken; the table says why.
    """
    spec, source = open_task(studies, task)
    if to in ("seg", "rtstruct"):
        raise typer.Exit(_export_objects(studies, task, to, out_dir, reviewed))
    from maml_app.labelling.export.dataset import Wish, export
    from maml_app.labelling.export.layouts import LAYOUTS

    if to not in LAYOUTS:
        raise MamlError(f"--to: expected one of {[*LAYOUTS, 'seg', 'rtstruct']}, got {to!r}")
    rows = export(source, spec, LAYOUTS[to](), out_dir, Wish(reviewed, link, anonymous))
    left_out = [row for row in rows if row.left_out]
    for row in left_out:
        out.print(f"{row.case} is left out: {row.left_out}", soft_wrap=True, markup=False)
    for row in rows:
        if row.without and not row.left_out:
            out.print(f"{row.case} is written without {row.without}", soft_wrap=True, markup=False)
        if row.resampled and not row.left_out:
            out.print(f"{row.case}: {row.resampled} resampled onto the label's grid", soft_wrap=True, markup=False)
    out.print(f"{len(rows) - len(left_out)} cases written to {out_dir}", soft_wrap=True)
    raise typer.Exit(1 if any(row.left_out or row.without for row in rows) else 0)


def _export_objects(studies: str, task: str, to: str, out_dir: Path, reviewed: bool) -> int:
    from maml_app.stores.choice import choose_task, is_archive, open_archive
    from maml_app.stores.exports import export_objects

    if not is_archive(studies):
        raise StudiesError(
            f"--to {to}: expected a DICOM archive, as such objects refer to DICOM images, got the folder {studies}; "
            "export it as nnunet, msd, brats or bids"
        )
    store = open_archive(studies, choose_task(studies, task))
    told = list(export_objects(store, "seg" if to == "seg" else "rtstruct", out_dir, reviewed))
    for case_id, became in told:
        out.print(f"{case_id}: {became}", soft_wrap=True, markup=False)
    if not told:
        raise StudiesError(f"{studies}: expected final labels to export, got none")
    return 1 if any(became.startswith("not exported") for _, became in told) else 0


@labels_app.command("import")
def labels_import(
    table: Annotated[Path, typer.Argument(help="an exported data set, or the provenance.json in it")],
    studies: Studies,
    task: TaskOption = "",
) -> None:
    """Bring the history of an exported data set's labels to studies that hold these labels.

    Exit code 1 if the history of a label could not be taken.
    """
    from maml_app.labelling.export.back import bring_back

    spec, source = open_task(studies, task)
    told = list(bring_back(table, source, spec))
    for case_id, became in told:
        out.print(f"{case_id}: {became}", soft_wrap=True, markup=False)
    raise typer.Exit(1 if any(became.startswith("not taken") for _, became in told) else 0)


@labels_app.command("show")
def labels_show(case: str, label: str, studies: Studies, task: TaskOption = "") -> None:
    """Print all that is known about a label, as JSON: its record and what people decided about it."""
    _, source = open_task(studies, task)
    for found in source.history(source.case(case).id):
        if found.entry.label == label:
            decisions = [decision.model_dump(mode="json") for decision in found.decisions]
            print_json({**found.entry.model_dump(mode="json"), "state": found.state.value, "decisions": decisions})
            return
    raise MamlError(f"case {case}: expected a label of its history, got {label!r}")


@labels_app.command("backup")
def labels_backup(
    out_file: Annotated[Path, typer.Argument(help="the .tar to write")],
    studies: Studies,
    task: TaskOption = "",
    models: Annotated[Path | None, typer.Option(help="also the models that a server keeps (its --conf models)")] = None,
) -> None:
    """Copy labels, decisions, notes and models into one file, while a server may go on."""
    from maml_app.labelling.backup import backup

    _, source = open_task(studies, task)
    count = backup(source, models, out_file)
    out.print(f"{count} files written to {out_file}", soft_wrap=True)


@labels_app.command("restore-backup")
def labels_restore_backup(
    file: Annotated[Path, typer.Argument(help="a .tar of labels backup")],
    studies: Studies,
    task: TaskOption = "",
    models: Annotated[Path | None, typer.Option(help="where the models go")] = None,
) -> None:
    """Put back what a backup holds. What is there and the same stays; what differs is never overwritten."""
    from maml_app.labelling.backup import bring_back

    _, source = open_task(studies, task)
    count = bring_back(file, source, models)
    out.print(f"{count} files put back", soft_wrap=True)
