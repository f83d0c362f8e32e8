"""The command line, without a server: `python -m maml_app check | plan | train | evaluate | infer | queue |
simulate | import-labels | phantom | models`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from maml_app.commands.archive import import_labels, print_series
from maml_app.commands.common import (
    COLUMNS,
    Cases,
    Device,
    Studies,
    TaskOption,
    chosen_cases,
    open_task,
    out,
    progress_bar,
)
from maml_app.commands.evaluate import evaluate
from maml_app.commands.models import models_app
from maml_app.commands.plan import plan
from maml_app.commands.queue import queue
from maml_app.commands.simulate import simulate
from maml_app.errors import CaseError, MamlError
from maml_app.stores.choice import choose_task, is_archive, open_archive

app = typer.Typer(
    help="Multi-modal segmentation of cases: check studies, train an ensemble, evaluate it, segment with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app, name="models")
app.command("import-labels")(import_labels)
app.command()(evaluate)
app.command()(plan)
app.command()(queue)
app.command()(simulate)


@app.command()
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


@app.command()
def train(
    studies: Studies,
    out_file: Annotated[Path, typer.Option("--out", help="the model file to write (.safetensors)")],
    task: TaskOption = "",
    steps: Annotated[int | None, typer.Option(min=1, help="training steps; without it as in task.yaml")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of weights, order and augmentation")] = 0,
    network: Annotated[
        Literal["maml", "early-fusion"] | None, typer.Option(help="the ensemble, or the single-network rival")
    ] = None,
    cases: Cases = "",
    validate: Annotated[
        bool, typer.Option("--validate/--no-validate", help="keep the validation patients aside, or train on all")
    ] = True,
    device: Device = "",
) -> None:
    """Train on the studies' labels and write one model file."""
    from maml_app.imaging.files import write_text
    from maml_app.learning.distributed import join_torchrun
    from maml_app.learning.optimise import Progress as Step
    from maml_app.learning.optimise import ranks
    from maml_app.learning.predict import pick_device
    from maml_app.learning.registry import store_model
    from maml_app.learning.train import train as run

    spec, source = open_task(studies, task)
    training = (
        spec.training.model_dump() | ({"steps": steps} if steps else {}) | ({} if validate else {"validation": 0.0})
    )
    spec = spec.model_copy(
        update={
            "training": type(spec.training).model_validate(training),
            "network": spec.network.model_copy(update={"kind": network} if network else {}),
        }
    )
    with Progress(*COLUMNS, console=out) as progress:
        rows: dict[str, TaskID] = {}

        def show(step: Step) -> None:
            if step.stage not in rows:
                rows[step.stage] = progress.add_task(step.stage, total=step.total)
            progress.update(rows[step.stage], completed=step.done, description=str(step) if step.losses else step.stage)
            if step.dice or (step.losses and not out.is_terminal):
                out.print(str(step))

        chosen = join_torchrun(device) or pick_device(device)
        result = run(spec, chosen_cases(source, cases), seed=seed, device=chosen, report=show)
    if ranks()[0] > 0:
        return  # under torchrun the first process writes
    store_model(out_file, result.network, result.checkpoint)
    # beside the model, for people: what it was trained for and how; the file may be used as a task.yaml again
    described = yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
    write_text(out_file.with_suffix(".yaml"), described)
    out.print(f"model written to {out_file}, trained on {len(result.checkpoint.notes['trained_on'])} cases")
    if result.validation:
        validation = result.validation
        out.print(f"validation Dice: mean over subsets {validation['mean']}, all modalities {validation['full']}")


@app.command()
def infer(
    studies: Studies,
    model: Annotated[Path, typer.Option(help="a model file written by train")],
    out_dir: Annotated[Path, typer.Option("--out", help="folder for CASE.nii.gz, one a case")],
    task: TaskOption = "",
    cases: Cases = "",
    grid: Annotated[str, typer.Option(help="modality on whose grid to answer; without it each case's reference")] = "",
    convention: Annotated[str, typer.Option(help="write an archive's label values, as named in task.yaml")] = "",
    device: Device = "",
) -> None:
    """Segment cases and write a label map for each."""
    from maml_app.imaging.files import write_label
    from maml_app.imaging.preprocess import from_task_values
    from maml_app.learning.predict import load_model, pick_device, segment

    spec, source = open_task(studies, task)
    loaded = load_model(model, spec, model.name, pick_device(device))
    chosen = chosen_cases(source, cases)
    with progress_bar("segmenting", len(chosen)) as tick:
        for case in chosen:
            found, asked = source.resolve(f"{case.id}@{grid}" if grid else case.id)
            result = segment(loaded, found, asked, spec)
            label = from_task_values(result.label, spec, convention) if convention else result.label
            write_label(out_dir / f"{case.id}.nii.gz", label, result.grid.affine)
            volumes = ", ".join(f"{name} {volume:.1f} ml" for name, volume in result.volume_ml.items())
            lacks = f"; missing {', '.join(result.missing)}" if result.missing else ""
            out.print(f"{case.id} on {asked}: {volumes}; uncertainty {result.uncertainty:.2f}{lacks}")
            tick(case.id)


@app.command()
def phantom(
    out_dir: Annotated[Path, typer.Option("--out", help="folder to write the cases to; must not hold any yet")],
    task: Annotated[str, typer.Option(help="a shipped task's name or a path to a task.yaml")] = "sarcoma_pet_ct_mr",
    count: Annotated[int, typer.Option(min=1)] = 12,
    size: Annotated[int, typer.Option(min=16, help="voxels along the finest grid's first axis")] = 48,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    labelled: Annotated[int | None, typer.Option(min=0, help="how many get a label; all without it")] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help="DICOM studies instead of NIfTI files")] = False,
) -> None:
    """Write synthetic multi-modal cases for a task."""
    from maml_app.imaging.phantom import write_cases

    if out_dir.exists() and any(out_dir.iterdir()):
        raise CaseError(f"{out_dir}: expected an empty or new folder, got one with files in it")
    write = write_cases
    if dicom:
        from maml_app.imaging.phantom_dicom import write_studies as write
    written = write(out_dir, choose_task(out_dir, task), count, seed, size, labelled)
    out.print(f"{len(written)} cases written to {out_dir}")


def main() -> None:
    """Run the command; a user's mistake is one message and exit code 2."""
    try:
        app()
    except MamlError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
