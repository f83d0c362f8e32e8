"""Which strategy learns faster, on synthetic cases: simulated annotation, curves, and what the experts disagree on.

Half of the cases to choose from are healthy, as in an archive of examinations: who draws at random draws many for
nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from maml_app.__main__ import app
from maml_app.cases.spec import load_task
from maml_app.choosing.look import look_at
from maml_app.disk import write_bytes
from maml_app.imaging.files import write_image, write_label
from maml_app.phantom.scene import make_case
from maml_app.stores.folder import FolderStore
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.predict import Model
from tests.harness.server import ROOT

out = Console(highlight=False)
TASK = ROOT / "docs" / "results" / "active_learning" / "phantom.yaml"
TESTED, START, PICTURES = 8, 4, 3


def main(
    out_dir: Annotated[Path, typer.Argument(help="folder for the cases, the reports and the pictures")],
    count: Annotated[int, typer.Option(min=12, help="synthetic cases to choose from")] = 24,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Play annotation on synthetic cases, under ten minutes on two cores; then draw where the experts disagree most."""
    torch.set_num_threads(1)
    spec = load_task(TASK)
    studies = out_dir / "studies"
    if not studies.is_dir():
        part = out_dir / "studies.part"
        for number in range(TESTED + count):
            # every second of those to choose from is healthy; the tested ones come first and never are
            case = make_case(spec, seed=1, number=number, size=24, healthy=number >= TESTED and number % 2 == 1)
            for name, volume in case.images.items():
                write_image(part / case.id / f"{name}.nii.gz", volume)
            write_label(part / case.id / "label.nii.gz", case.label.voxels, case.label.affine)
        part.rename(studies)
    tested = ",".join(f"phantom_{number:03d}" for number in range(TESTED))
    options = {
        "studies": studies,
        "task": TASK,
        "out": out_dir,
        "test": tested,
        "strategies": "random,foreground_random,disagreement,maml",
        "start": START,
        "batch": 2,
        "rounds": 3,
        "device": "cpu",
    }
    command = ["simulate", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    # two processes share the states of all seeds, then one draws the curves of what is there
    half = (seeds + 1) // 2
    shares = [(0, half), (half, seeds - half)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "maml_app", *command, "--first-seed", str(first), "--seeds", str(count)]
        )
        for first, count in shares
        if count
    ]
    ends = [process.wait() for process in running]  # each, before any is judged
    if any(ends):
        raise typer.Exit(1)
    app([*command, "--seeds", str(seeds)], standalone_mode=False)
    cases = FolderStore(studies, spec).cases()
    trained = train(spec, cases[:TESTED], Recipe(devices=(torch.device("cpu"),)))
    model = Model("v0001", trained.network, trained.checkpoint, torch.device("cpu"))
    scored = [look_at(case, model, spec) for case in cases[TESTED:]]
    scored.sort(key=lambda one: -one[0].disagreement)
    for place, (score, picture) in enumerate(scored[:PICTURES], start=1):
        write_bytes(out_dir / f"disagreement_{place}.png", picture)
        out.print(f"{place}. {score.case}: the experts differ by {score.disagreement:.3f} nats")


if __name__ == "__main__":
    typer.run(main)
