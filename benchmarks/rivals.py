"""Rivals and ablations under one trainer: who segments better, with how much arithmetic, under each subset.

Each unit (variant, split, seed) is one JSON file; a stopped study goes on where it was, and several processes may share
the folder. The table is made of the units that are there, and says how many.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rivals_table import chart, table
from benchmarks.rivals_variants import ABLATIONS, BY_EXPERTS, OURS, PUBLISHED, RIVALS, ROWS, VARIANTS, changed
from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec, parse_task
from maml_app.disk import write_bytes, write_text
from maml_app.errors import MamlError, TrainingError
from maml_app.evaluation.evaluate import Segmenter, evaluate
from maml_app.evaluation.figures import inside
from maml_app.evaluation.scores import Scores, subset_name
from maml_app.network.ensemble import MamlEnsemble, SegmentationNetwork, build_network
from maml_app.network.fusion import AverageHead
from maml_app.stores.choice import choose_task
from maml_app.stores.folder import FolderStore
from maml_app.training.recipe import Recipe
from maml_app.training.train import train
from maml_app.versions.predict import load_model, pick_device
from maml_app.versions.registry import store_model

out = Console(highlight=False)


def arithmetic(spec: TaskSpec) -> float:
    """Billions of floating-point operations of one forward pass on one patch with all modalities."""
    network = build_network(len(spec.modalities), spec.classes, spec.network).eval()
    images = torch.zeros(1, len(spec.modalities), *spec.training.patch)
    # not in inference mode, where small convolutions go past what the counter knows
    with FlopCounterMode(display=False) as counter:
        network(images, torch.ones(images.shape[:2], dtype=torch.bool))
    return float(counter.get_total_flops()) / 1e9


def splits(cases: list[Case], test: str, folds: int) -> list[list[str]]:
    """The test cases of each split: the ones named, or folds by patient."""
    if test:
        return [test.replace(",", " ").split()]
    patients = sorted({case.patient_id for case in cases})
    return [[case.id for case in cases if case.patient_id in patients[fold::folds]] for fold in range(folds)]


def labelled_in_part(cases: list[Case], labels: int | None) -> list[Case]:
    """The cases, of which only so many keep their label: the same ones however many others there are."""
    order = sorted(cases, key=lambda case: hashlib.sha256(case.id.encode()).digest())
    kept = {case.id for case in order[:labels]}
    return [case if case.id in kept else replace(case, labels=()) for case in cases]


def with_only(spec: TaskSpec, modalities: str) -> TaskSpec:
    """The task as if there were only these modalities, names with commas between; all of them if none is named."""
    names = modalities.replace(",", " ").split()
    kept = [modality for modality in spec.modalities if modality.name in names or not names]
    if not kept or set(names) - set(spec.modality_names):
        raise typer.BadParameter(f"expected some of {', '.join(spec.modality_names)}, got {modalities}")
    content = spec.model_dump(mode="json") | {"modalities": [modality.model_dump(mode="json") for modality in kept]}
    if spec.reference not in {modality.name for modality in kept}:
        content["reference"] = kept[0].name
    return parse_task(json.dumps(content), "task")


def run_unit(
    spec: TaskSpec,
    cases: list[Case],
    held: list[str],
    recipe: Recipe,
    model: Path,
    labels: int | None = None,
) -> tuple[dict[str, Any], SegmentationNetwork]:
    """Train on all but the held cases, keep the model, and score it on them; the unit and its network.

    `labels`: how many of the cases have one for the training. `minutes` of training are of the processor on a CPU, as
    other work may share it, and of the clock on a GPU.
    """
    device = recipe.device
    clock = time.monotonic if device.type == "cuda" else time.process_time
    began = clock()
    training = labelled_in_part([case for case in cases if case.id not in held], labels)
    result = train(spec, training, recipe)
    minutes = (clock() - began) / 60
    store_model(model, result.network, result.checkpoint)
    scores = evaluate(
        Segmenter(result.network, spec, spec.training.patch, device), [case for case in cases if case.id in held]
    )
    unit = {
        "minutes": round(minutes, 2),
        "gflop": round(arithmetic(spec), 2),
        "steps": spec.training.steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cases": scores.cases,
    }
    return unit, result.network


def by_experts(
    unit: dict[str, Any], network: MamlEnsemble, cases: list[Case], spec: TaskSpec, device: torch.device
) -> dict[str, Any]:
    """A unit's cases scored with the mean of the experts' opinions wherever a modality is missing."""
    average = copy.deepcopy(network)
    average.head, average.averaged = AverageHead(len(spec.modalities), spec.network.channels[0], spec.classes), True
    scores = evaluate(Segmenter(average, spec, spec.training.patch, device), cases).cases
    full = subset_name(spec.modality_names)
    whole = {case: {full: known[full]} if full in known else {} for case, known in unit["cases"].items()}
    return {**unit, "cases": {case: {**scores[case], **whole[case]} for case in scores}}


def main(
    studies: Annotated[Path, typer.Argument(help="folder of labelled studies")],
    out_dir: Annotated[Path, typer.Argument(help="folder for the units and the table")],
    task: Annotated[str, typer.Option(help="a shipped task's name or a path to a task.yaml")] = "sarcoma_pet_ct_mr",
    variants: Annotated[str, typer.Option(help="names with commas between; `rivals`, `ablations`, `all`")] = "all",
    test: Annotated[str, typer.Option(help="ids of the test cases with commas; without it folds by patient")] = "",
    leave_out: Annotated[str, typer.Option(help="cases to do without, ids with commas between")] = "",
    folds: Annotated[int, typer.Option(min=2)] = 5,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="fresh seeds judge what was chosen with others")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="without it as in task.yaml")] = None,
    labels: Annotated[int | None, typer.Option(min=1, help="how many training cases keep their label")] = None,
    modalities: Annotated[str, typer.Option(help="only these, with commas; without it all of the task's")] = "",
    device: Annotated[str, typer.Option(help="cuda, cpu; without it the GPU if there is one")] = "",
    picture: Annotated[bool, typer.Option("--picture", help="also draw what goes on in the ensemble")] = False,
) -> None:
    """Train and score variants of a task's network and loss; print and write the table."""
    groups = {"rivals": list(RIVALS), "ablations": list(ABLATIONS), "all": list(VARIANTS)}
    names = [name for word in variants.split(",") for name in groups.get(word, [word])]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise typer.BadParameter(f"expected some of {', '.join([*groups, *VARIANTS])}, got {', '.join(unknown)}")
    spec = with_only(choose_task(studies, task), modalities)
    where = pick_device(device)
    left = leave_out.replace(",", " ").split()
    cases = [case for case in FolderStore(studies, spec).cases() if case.label is not None and case.id not in left]
    parts = splits(cases, test, folds)
    _same_study(out_dir / "study.json", spec, parts, steps or spec.training.steps, labels)
    for seed in range(first_seed, first_seed + seeds):
        for number, held in enumerate(parts):
            for name in names:
                change = VARIANTS[name]
                if steps:
                    change = {**change, "training": {**change.get("training", {}), "steps": steps}}
                path = out_dir / "units" / f"{name}-{number}-{seed}.json"
                claim = path.with_suffix(".claim")
                if path.exists() or not _claimed(claim):
                    continue
                try:
                    model = out_dir / "models" / f"{path.stem}.safetensors"
                    recipe = Recipe(seed=seed, devices=(where,), prepared=out_dir / "prepared")
                    unit, network = run_unit(changed(spec, change), cases, held, recipe, model, labels)
                    if name == PUBLISHED:
                        assert isinstance(network, MamlEnsemble)
                        part = by_experts(unit, network, [case for case in cases if case.id in held], spec, where)
                        write_text(path.with_name(f"{BY_EXPERTS}-{number}-{seed}.json"), json.dumps(part, indent=1))
                    write_text(path, json.dumps(unit, indent=1))
                finally:
                    claim.unlink()
                scores = Scores.of(spec, unit["cases"])
                out.print(
                    f"{name}, split {number}, seed {seed}: mean over subsets {scores.mean:.3f}, "
                    f"all modalities {scores.full:.3f}, {unit['minutes']} min"
                )
    if picture:
        _picture(spec, cases, parts[0], out_dir)
    write_text(out_dir / "table.md", table(spec, out_dir, ROWS))
    if drawn := chart(spec, out_dir, [*RIVALS, BY_EXPERTS]):
        write_bytes(out_dir / "subsets.png", drawn)
    out.print(table(spec, out_dir, ROWS), markup=False, soft_wrap=True)


def _same_study(path: Path, spec: TaskSpec, parts: list[list[str]], steps: int, labels: int | None) -> None:
    """Units of one folder are compared with each other: they must be of one task, its splits, steps and labels."""
    wanted = {"task": spec.model_dump(mode="json"), "splits": parts, "steps": steps}
    wanted |= {"labels": labels} if labels else {}
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=1))
    elif json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise TrainingError(
            f"{path}: expected the study that this folder holds, got another task, split, steps or labels"
        )


def _picture(spec: TaskSpec, cases: list[Case], held: list[str], out_dir: Path) -> None:
    """What each expert of our first model sees in the first held case, the attention, and the fused result."""
    model = load_model(out_dir / "models" / f"{OURS}-0-0.safetensors", changed(spec, {}), OURS, torch.device("cpu"))
    assert isinstance(model.network, MamlEnsemble)
    case = next(case for case in cases if case.id in held and not case.missing(spec.modality_names))
    content = inside(model.segmenter(spec), case)
    write_bytes(out_dir / "inside.png", content)


def _claimed(path: Path) -> bool:
    """Whether this process is the first to take the unit; the claim of a process that was killed is taken over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        try:
            os.kill(int(path.read_text() or "0"), 0)
            return False
        except (ProcessLookupError, ValueError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return _claimed(path)
    return True


if __name__ == "__main__":
    try:
        typer.run(main)
    except MamlError as error:
        raise SystemExit(f"error: {error}") from None
