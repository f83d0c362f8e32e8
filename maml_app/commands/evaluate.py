"""`python -m maml_app evaluate`: a model scored on labelled studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maml_app.cases.spec import TaskSpec
from maml_app.commands.common import Cases, Device, Studies, TaskOption, out, progress_bar, ready_folder, tell_unused
from maml_app.commands.opening import labelled_cases, open_task, tell_unused_files
from maml_app.errors import CaseError, StudiesError

if TYPE_CHECKING:
    from maml_app.evaluation.evaluate import Details
    from maml_app.evaluation.scores import Scores


def evaluate(
    studies: Studies,
    model: Annotated[Path, typer.Option(help="a model file written by train")],
    out_dir: Annotated[Path, typer.Option("--out", help="folder for the report: .json, .md, .html, and cases.csv")],
    task: TaskOption = "",
    against: Annotated[Path | None, typer.Option(help="another model's report.json to compare with by case")] = None,
    cases: Cases = "",
    device: Device = "",
) -> None:
    """Score a model on the studies' labels, under every subset of modalities.

    Exit code 1 if a labelled case, or an image of one, could not be used; the others are scored.
    """
    from maml_app.disk import write_text
    from maml_app.evaluation.evaluate import evaluate_thoroughly
    from maml_app.evaluation.figures import bars, boxes, panel, worst
    from maml_app.evaluation.report import Judged, Report, page
    from maml_app.training.split import known
    from maml_app.versions.predict import load_model, pick_device

    spec, source = open_task(studies, task)
    labelled = labelled_cases(source, spec, cases)
    if not labelled:
        raise CaseError(f"{studies}: expected cases with a label to score against, got none")
    other = _other(against, spec) if against else None
    loaded = load_model(model, spec, model.name, pick_device(device))
    ready_folder(out_dir)
    checkpoint, segmenter = loaded.checkpoint, loaded.segmenter(spec)
    seen = sorted(case.id for case in known(labelled, checkpoint))
    if seen:
        told = f"{len(seen)} of these cases are of patients that were trained on, their scores are not a test"
        out.print(f"{told}: {', '.join(seen)}", soft_wrap=True, markup=False, style="yellow")
    refused: dict[str, str] = {}

    def skip(case_id: str, reason: str) -> None:
        refused[case_id] = reason
        tell_unused(case_id, reason)

    with progress_bar("scoring", len(labelled)) as tick:
        details = evaluate_thoroughly(segmenter, labelled, tick, skip)
    scores = details.scores
    if not scores.cases:
        raise CaseError(f"{studies}: no labelled case can be scored: {'; '.join(refused.values())}")
    compared = (other[0], scores.compared(other[1])) if other else None
    judged = Judged(model.name, checkpoint.network.kind, checkpoint.notes, tuple(seen))
    report = Report(spec, studies, judged, details, compared)
    text = report.markdown()
    figures = {"Mean Dice by subset of modalities": bars(scores), "Dice of the cases": boxes(scores)}
    for case in labelled:
        if case.id in worst(scores):
            picture = panel(segmenter, case)
            figures[f"{case.id}, among the lowest Dice: truth green, answer red"] = picture
    texts = {
        "report.json": json.dumps(report.as_dict(), indent=1),
        "report.md": text,
        "cases.csv": report.spreadsheet(),
        "report.html": page(text, spec.title, figures),
    }
    for name, content in texts.items():
        write_text(out_dir / name, content)
    out.print(text)
    out.print(f"written to {out_dir}")
    _tell_left_out(details)
    if refused:
        out.print(f"{len(refused)} of {len(labelled)} labelled cases are not scored: {', '.join(refused)}")
    raise typer.Exit(1 if refused or details.left_out or tell_unused_files(source, cases) else 0)


def _tell_left_out(details: Details) -> None:
    for case_id, reasons in details.left_out.items():
        for name, reason in reasons.items():
            out.print(f"{case_id} without {name}: {reason}", soft_wrap=True, markup=False, style="yellow")


def _other(path: Path, spec: TaskSpec) -> tuple[str, Scores]:
    """The model file and the scores that another report.json tells.

    Raises:
        StudiesError: it is no report, or one of another task or of other structures: these are not compared.
    """
    from maml_app.evaluation.scores import Scores

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudiesError(f"{path}: expected a report.json written by evaluate, got: {error}") from None
    try:
        file, task, cases = content["model"]["file"], content["task"], content["cases"]
        rows = [by_name for by_subset in cases.values() for by_name in by_subset.values()]
        whole = all(value is None or isinstance(value, (int, float)) for by_name in rows for value in by_name.values())
        scored = {tuple(sorted(by_name)) for by_name in rows}
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise StudiesError(f"{path}: expected a report.json written by evaluate, got other JSON")
    if task != spec.name or scored - {tuple(sorted(spec.scored))}:
        names = " and of ".join(", ".join(found) for found in sorted(scored))
        raise StudiesError(
            f"{path}: expected a report of task {spec.name!r} with scores of {', '.join(sorted(spec.scored))}, got one "
            f"of task {task!r} with scores of {names}"
        )
    return str(file), Scores.of(spec, cases)
