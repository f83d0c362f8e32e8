"""The demo: a server to try by hand, or the whole loop played once through the real server and client."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from rich.console import Console
from rich.table import Table

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.errors import MamlError
from maml_app.evaluation.metrics import dice_scores, mean
from maml_app.imaging.files import read_image, read_label, write_image, write_label
from maml_app.imaging.labels import read_case_label
from maml_app.phantom.dicom import write_studies
from maml_app.phantom.scene import write_cases
from maml_app.stores.choice import choose_task
from maml_app.stores.layouts import read_cases
from tests.harness.orthanc import Orthanc
from tests.harness.server import ROOT, Server, ServerError

out = Console(highlight=False)


class DemoError(Exception):
    """A step of the loop failed; the message says which and why."""


def main(
    studies: Annotated[Path | None, typer.Option(help="your studies; synthetic ones are made without it")] = None,
    task: Annotated[str, typer.Option(help="a shipped task's name or a path to a task.yaml")] = "",
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 0,
    once: Annotated[bool, typer.Option("--once", help="play the loop without a person, then stop")] = False,
    steps: Annotated[int, typer.Option(min=1, help="training steps of --once")] = 200,
    ohif: Annotated[bool, typer.Option("--ohif", help="the phantom as DICOM in Orthanc, to try in OHIF")] = False,
    held_out: Annotated[int, typer.Option(min=1, help="cases that --once never labels, to score the model on")] = 3,
) -> None:
    """Start a server and tell what to do next; with --once play info, next, infer, save, train and infer."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left running
    try:
        if ohif:
            serve_ohif(task or "sarcoma_pet_ct_mr", port, steps)
        elif once:
            play(studies, task, port, steps, held_out)
        else:
            serve(studies, task, port)
    except (MamlError, DemoError, ServerError) as error:
        out.print(f"demo failed: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        out.print("\nstopped")


def serve(studies: Path | None, task: str, port: int) -> None:
    """Run until Ctrl-C. Synthetic studies are kept in demo-studies/, so that labels saved there last."""
    if studies is None:
        studies = ROOT / "demo-studies"
        if not studies.exists():
            out.print(f"making 12 synthetic PET/CT/MR cases in {studies}")
            spec = choose_task(studies, task or "sarcoma_pet_ct_mr")
            write_cases(studies, spec, count=12, seed=1, labelled=6)
    spec = choose_task(studies, task)
    log = Path(tempfile.mkdtemp(prefix="maml-demo-")) / "server.log"
    with Server(studies, log, port=port, conf={"task": task} if task else None) as server:
        train = f"curl -X POST {server.url}/train/{spec.name} -H 'Content-Type: application/json' -d '{{}}'"
        out.print(
            f"""
[bold]{spec.title}[/bold] is served at [bold]{server.url}[/bold]
(log: {log})

In 3D Slicer: install the extension MONAILabel, open its module, enter the address above, press the
green arrow, then Next Sample. Train starts training on the labels there are; then Run segments a case.
(OHIF opens studies from a DICOMweb server only, not from a folder.)

From the shell, train:  {train}
and watch it:           curl {server.url}/train/
Everything else:        {server.url}/docs

Ctrl-C stops the server.""",
            soft_wrap=True,
        )
        server.wait()
        raise DemoError(f"the server ended by itself:\n{server.tail()}")


def serve_ohif(task: str, port: int, steps: int) -> None:
    """Orthanc with 12 synthetic DICOM studies, half of them labelled, the server on it, and a first training."""
    with tempfile.TemporaryDirectory(prefix="maml-demo-") as name:
        folder = Path(name)
        spec = choose_task(folder, task)
        out.print("making 12 synthetic studies and starting Orthanc with them")
        write_studies(folder / "dicom", spec, count=12, seed=1, labelled=6)
        conf = {"task": task, "models": str(folder / "models"), "cache": str(folder / "cache")}
        with (
            Orthanc(folder / "orthanc") as orthanc,
            Server(orthanc.dicomweb, folder / "server.log", port=port, conf=conf) as server,
        ):
            orthanc.add_folder(folder / "dicom")
            client = MONAILabelClient(server.url, str(folder))
            client.train_start(spec.name, {"steps": steps})
            study = client.next_sample("first", {})["StudyInstanceUID"]
            out.print(
                f"""
[bold]{spec.title}[/bold], from the archive {orthanc.dicomweb}

Open a study:    [bold]{server.url}/ohif/monai-label?StudyInstanceUIDs={study}[/bold]
All studies:     {server.url}/ohif/

Double-click a series, press "Segment this series", correct with Brush and Eraser, press "Save as final label";
"Update Model" under "Active Learning" trains again. The first model is being trained now, for some minutes
({server.url}/train/); until then the viewer says that there is none. Ctrl-C stops all and forgets it.
""",
                soft_wrap=True,
            )
            server.wait()
            raise DemoError(f"the server ended by itself:\n{server.tail()}")


def play(studies: Path | None, task: str, port: int, steps: int, held_out: int) -> None:
    """The loop, in a temporary folder: the studies given are only read."""
    with tempfile.TemporaryDirectory(prefix="maml-demo-") as name:
        folder = Path(name)
        if studies is None:
            studies = folder / "phantom"
            write_cases(studies, choose_task(folder, task or "sarcoma_pet_ct_mr"), count=14, seed=1)
        spec = choose_task(studies, task)
        known = [case for case in read_cases(studies, spec) if case.label is not None]
        if len(known) < held_out + 2:
            raise DemoError(
                f"{studies}: expected at least {held_out + 2} labelled cases, whose labels --once plays back as an "
                f"annotator, got {len(known)}"
            )
        # the ones that are never labelled come last, in id order; the one before them is labelled through the server
        tests, annotated = known[-held_out:], known[-held_out - 1]
        truths = stage(known, {case.id for case in [*tests, annotated]}, spec, folder)
        out.print(f"{spec.title}: {len(known)} cases, {len(known) - held_out - 1} labelled from the start")
        log = folder / "server.log"
        with Server(
            folder / "studies", log, port=port, conf={"models": str(folder / "models"), "task": str(folder)}
        ) as server:
            out.print(f"server: {server.url}")
            table = loop(MONAILabelClient(server.url, str(folder)), spec, annotated, tests, truths, steps)
        out.print(table)


def stage(cases: list[Case], unlabelled: set[str], spec: TaskSpec, folder: Path) -> dict[str, Path]:
    """Copy cases to folder/studies, hiding some labels; all labels, with the task's values, are in the result."""
    truths = {}
    for case in cases:
        for name, ref in case.images.items():
            target = (
                folder / "studies" / case.id / f"{spec.modalities[spec.modality_names.index(name)].files[0]}.nii.gz"
            )
            if ref.channel is None and ref.path.name.endswith(".nii.gz"):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ref.path, target)
            else:
                write_image(target, read_image(ref))
        label = read_case_label(case, spec)
        home = folder / "truth" if case.id in unlabelled else folder / "studies"
        truths[case.id] = home / case.id / "label.nii.gz"
        write_label(truths[case.id], label.voxels, label.affine)
    (folder / "task.yaml").write_text(json.dumps(spec.model_dump(mode="json")), encoding="utf-8")
    return truths


def loop(
    client: MONAILabelClient, spec: TaskSpec, annotated: Case, tests: list[Case], truths: dict[str, Path], steps: int
) -> Table:
    """info -> next -> infer -> save -> train -> infer, and a table of Dice before and after."""
    info = client.info()
    if spec.name not in info["models"] or spec.name not in info["trainers"]:
        raise DemoError(f"info: expected the model and trainer {spec.name!r}, got {sorted(info['models'])}")
    out.print(f"info: {info['datastore']['completed']} of {info['datastore']['total']} cases labelled")
    sample = client.next_sample("first", {})
    out.print(f"next: {sample.get('id')} (missing: {', '.join(sample.get('missing', [])) or 'nothing'})")
    if sample.get("id") != annotated.id:
        raise DemoError(f"next: expected the first unlabelled case {annotated.id!r}, got {sample.get('id')!r}")
    asked = [annotated, *tests]
    before = {case.id: proposal(client, spec, case, truths) for case in asked}
    saved = client.save_label(
        annotated.id, str(truths[annotated.id]), params={"label_info": slicer_names(spec, truths[annotated.id])}
    )
    out.print(f"save: {saved['label']}")
    run_training(client, spec, steps)
    after = {case.id: proposal(client, spec, case, truths) for case in asked}
    table = Table(title="Dice of the proposal, before and after training")
    for heading in ("case", "label", "before", "after", "used", "uncertainty"):
        table.add_column(heading)
    for case in asked:
        old, new = before[case.id], after[case.id]
        table.add_row(
            case.id,
            "saved, trained on" if case is annotated else "never saved",
            "no model yet" if old is None else f"{old['dice']:.3f}",
            "–" if new is None or new["dice"] is None else f"{new['dice']:.3f}",
            "–" if new is None else "+".join(new["modalities_used"]),
            "–" if new is None else f"{new['uncertainty']:.2f}",
        )
    scores = [new["dice"] for new in after.values() if new is not None]
    if len(scores) < len(asked) or not mean(scores):
        raise DemoError(f"infer after training: expected a segmentation of every case, got Dice {scores}")
    return table


def slicer_names(spec: TaskSpec, label: Path) -> list[dict[str, Any]]:
    """Segment names as Slicer sends them along with a label."""
    present = set(read_label(label).voxels.ravel().tolist())
    return [{"name": name, "idx": value} for value, name in spec.label_values.items() if value in present]


def proposal(client: MONAILabelClient, spec: TaskSpec, case: Case, truths: dict[str, Path]) -> dict[str, Any] | None:
    """The server's segmentation of a case and its Dice; None while the server says that there is no model."""
    truth = read_label(truths[case.id])
    try:
        # the grid of the label decides on which image's grid to ask
        file, params = client.infer(spec.name, case.id, {"result_extension": ".nii.gz"})
    except MONAILabelClientException as error:
        if "there is no model" in str(error):
            out.print(f"infer {case.id}: no model yet, as the server says")
            return None
        raise DemoError(f"infer {case.id}: {error}") from None
    answer = read_label(Path(file))
    if not answer.grid.same_as(truth.grid):
        raise DemoError(f"infer {case.id}: expected the grid {truth.grid}, got {answer.grid}")
    params["dice"] = mean(list(dice_scores(answer.voxels, truth.voxels, spec.scored).values()))
    return dict(params)


def run_training(client: MONAILabelClient, spec: TaskSpec, steps: int) -> None:
    """Start training and show its log until it ends."""
    client.train_start(spec.name, {"steps": steps})
    shown: list[str] = []
    while True:
        status = client.train_status()
        for line in status.get("details", []):
            if line not in shown and not line.startswith("["):
                out.print(f"  {line}", soft_wrap=True, markup=False)
            shown.append(line)
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            break
        time.sleep(1)
    if status["status"] != "DONE":
        raise DemoError(f"train: expected it to end well, got {status['status']}: {shown[-1] if shown else 'no log'}")


if __name__ == "__main__":
    typer.run(main)
