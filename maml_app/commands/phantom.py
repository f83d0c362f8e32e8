"""`python -m maml_app phantom`: synthetic cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maml_app.commands.common import out, ready_folder
from maml_app.errors import CaseError
from maml_app.stores.choice import choose_task


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
    from maml_app.phantom.scene import write_cases

    spec = choose_task(out_dir, task)
    ready_folder(out_dir)
    if any(out_dir.iterdir()):
        raise CaseError(f"{out_dir}: expected an empty or new folder, got one with files in it")
    write = write_cases
    if dicom:
        from maml_app.phantom.dicom import write_studies as write
    written = write(out_dir, spec, count, seed, size, labelled)
    out.print(f"{len(written)} cases written to {out_dir}")
