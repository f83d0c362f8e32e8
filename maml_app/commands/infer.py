"""`python -m maml_app infer`: label maps of cases, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maml_app.cases.spec import OWN
from maml_app.commands.common import Cases, Device, Studies, TaskOption, out, progress_bar, ready_folder
from maml_app.commands.opening import chosen_cases, open_task, tell_unused_files
from maml_app.errors import CaseError, StudiesError


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
    """Segment cases and write a label map for each.

    Exit code 1 if a case could not be segmented, or not from all of its images, or files among the studies belong to no
    case; the others are written.
    """
    from maml_app.imaging.files import write_label
    from maml_app.imaging.labels import check_convention, from_task_values
    from maml_app.versions.predict import load_model, pick_device, segment

    spec, source = open_task(studies, task)
    check_convention(spec, convention or OWN)
    if grid and grid not in spec.modality_names:
        raise CaseError(f"--grid: expected one of {list(spec.modality_names)}, got {grid!r}")
    chosen = chosen_cases(source, cases)
    loaded = load_model(model, spec, model.name, pick_device(device))
    ready_folder(out_dir)
    unused = tell_unused_files(source, cases)
    failed: list[str] = []
    partly: list[str] = []
    with progress_bar("segmenting", len(chosen)) as tick:
        for case in chosen:
            tick(case.id)
            try:
                found, asked = source.resolve(f"{case.id}@{grid}" if grid else case.id)
                result = segment(loaded, found, asked, spec)
                label = from_task_values(result.label, spec, convention or OWN)
            except (CaseError, StudiesError) as error:
                failed.append(case.id)
                out.print(f"{case.id}: not segmented: {error}", soft_wrap=True, markup=False, style="red")
                continue
            write_label(out_dir / f"{case.id}.nii.gz", label, result.grid.affine)
            volumes = ", ".join(f"{name} {volume:.1f} ml" for name, volume in result.volume_ml.items())
            lacks = f"; missing {', '.join(result.missing)}" if result.missing else ""
            out.print(f"{case.id} on {asked}: {volumes}; uncertainty {result.uncertainty:.2f}{lacks}")
            for name, reason in result.left_out.items():
                out.print(f"  without {name}: {reason}", soft_wrap=True, markup=False, style="yellow")
            partly += [case.id] if result.left_out else []
    if failed:
        out.print(f"{len(failed)} of {len(chosen)} cases not segmented: {', '.join(failed)}", soft_wrap=True)
    if partly:
        out.print(f"{len(partly)} segmented without an image that cannot be used: {', '.join(partly)}", soft_wrap=True)
    raise typer.Exit(1 if failed or partly or unused else 0)
