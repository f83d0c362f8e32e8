"""`python -m maml_app infer`: label maps of cases, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maml_app.commands.common import Cases, Device, Studies, TaskOption, chosen_cases, open_task, out, progress_bar


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
    from maml_app.versions.predict import load_model, pick_device, segment

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
