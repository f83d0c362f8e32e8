"""`python -m maml_app plan`: a task.yaml fitted to labelled studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml

from maml_app.cases.source import teaching
from maml_app.cases.spec import parse_task
from maml_app.commands.common import Studies, TaskOption, out, progress_bar, ready_file, tell_unused
from maml_app.commands.opening import chosen_cases, open_task
from maml_app.errors import TaskSpecError


def plan(
    studies: Studies,
    out_file: Annotated[Path, typer.Option("--out", help="the task.yaml to write; must not be there yet")],
    task: TaskOption = "",
    memory_gb: Annotated[
        float, typer.Option(min=0, help="what a training step may take; 0: half of the GPU, or of the free memory")
    ] = 0.0,
) -> None:
    """Measure the labelled cases and write a task.yaml with spacing, patch, levels, batch and CT windows to fit them.

    Labels of a test set are not looked at. The file is yours to change; serve or train with it by `--task FILE` or
    `--conf task FILE`.
    """
    from maml_app.disk import write_text
    from maml_app.imaging.fingerprint import take_fingerprint
    from maml_app.machine import free_memory_gb
    from maml_app.training.plan import make_plan

    if out_file.exists():
        raise TaskSpecError(f"{out_file}: expected a file that is not there yet, so that none of yours is overwritten")
    spec, source = open_task(studies, task)
    cases = [case for case in teaching(chosen_cases(source, ""), spec) if case.label]
    ready_file(out_file)
    with progress_bar("measuring", len(cases)) as tick:
        found = take_fingerprint(cases, spec, tick, tell_unused)
    with out.status("fitting patch, batch and network to the memory"):
        made = make_plan(found, spec, memory_gb or free_memory_gb() / 2)
    sizes = " x ".join(f"{side:.0f}" for side in found.median_size_mm)
    spacings = " x ".join(f"{edge:.2f}" for edge in found.median_spacing_mm)
    lesions = np.percentile(found.lesions_ml, (10, 50, 90)) if found.lesions_ml else (0, 0, 0)
    told = [
        f"Planned from {found.cases} labelled cases; every value may be changed.",
        f"Median size {sizes} mm, spacing {spacings} mm; missing: {json.dumps(found.missing)}",
        f"Connected parts of the foreground, ml: 10th percentile {lesions[0]:.2f}, median {lesions[1]:.2f}, 90th "
        f"{lesions[2]:.1f}",
        f"A training step on one case takes about {made.memory_gb:.2f} GB.",
    ]
    content = made.applied(spec.model_dump(mode="json", exclude_defaults=True))
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    text = "".join(f"# {line}\n" for line in told) + body
    parse_task(text, str(out_file))
    write_text(out_file, text)
    for line in told:
        out.print(line, soft_wrap=True)
    out.print(f"patch {made.patch}, batch {made.batch}, spacing {made.spacing_mm} mm, {len(made.strides)} levels")
    out.print(f"written to {out_file}")
