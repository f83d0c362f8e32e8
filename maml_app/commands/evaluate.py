"""`python -m maml_app evaluate`: a model scored on labelled studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maml_app.commands.common import Cases, Device, Studies, TaskOption, chosen_cases, open_task, out, progress_bar
from maml_app.errors import CaseError, StudiesError


def evaluate(
    studies: Studies,
    model: Annotated[Path, typer.Option(help="a model file written by train")],
    out_dir: Annotated[Path, typer.Option("--out", help="folder for the report: .json, .md, .html, and cases.csv")],
    task: TaskOption = "",
    against: Annotated[Path | None, typer.Option(help="another model's report.json to compare with by case")] = None,
    cases: Cases = "",
    device: Device = "",
) -> None:
    """Score a model on the studies' labels, under every subset of modalities."""
    from maml_app.disk import write_text
    from maml_app.evaluation.evaluate import compare
    from maml_app.evaluation.evaluate import evaluate as run
    from maml_app.evaluation.figures import bars, boxes, panel, worst
    from maml_app.evaluation.report import markdown, page
    from maml_app.evaluation.report import table as spreadsheet
    from maml_app.versions.predict import load_model, pick_device

    spec, source = open_task(studies, task)
    labelled = [case for case in chosen_cases(source, cases) if case.label is not None]
    if not labelled:
        raise CaseError(f"{studies}: expected cases with a label to score against, got none")
    other = _report(against) if against else None
    loaded = load_model(model, spec, model.name, pick_device(device))
    seen = sorted(set(loaded.checkpoint.notes["trained_on"]) & {case.id for case in labelled})
    if seen:
        out.print(f"[yellow]{len(seen)} of these cases were trained on, their scores are not a test: {', '.join(seen)}")
    with progress_bar("scoring", len(labelled)) as tick:
        report = run(loaded.network, labelled, spec, loaded.checkpoint.patch, loaded.device, tick, thorough=True)
    report["model"] = {
        "file": model.name,
        "network": loaded.checkpoint.network.kind,
        "trained_on_scored_cases": seen,
        **loaded.checkpoint.notes,
    }
    if other:
        report["against"] = {"file": other["model"]["file"], "subsets": compare(report, other)}
    text = markdown(report, spec)
    figures = {"Mean Dice by subset of modalities": bars(report, spec), "Dice of the cases": boxes(report)}
    for case in labelled:
        if case.id in worst(report):
            picture = panel(loaded.network, case, spec, loaded.checkpoint.patch, loaded.device)
            figures[f"{case.id}, among the lowest Dice: truth green, answer red"] = picture
    texts = {
        "report.json": json.dumps(report, indent=1),
        "report.md": text,
        "cases.csv": spreadsheet(report),
        "report.html": page(text, spec.title, figures),
    }
    for name, content in texts.items():
        write_text(out_dir / name, content)
    out.print(text)
    out.print(f"written to {out_dir}")


def _report(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudiesError(f"{path}: expected a report.json written by evaluate, got: {error}") from None
    if not isinstance(content, dict) or not {"subsets", "cases", "model"} <= set(content):
        raise StudiesError(f"{path}: expected a report.json written by evaluate, got other JSON")
    return content
