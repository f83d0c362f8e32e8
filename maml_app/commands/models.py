"""`python -m maml_app models …`: the versions that a server keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from maml_app.commands.common import Device, Json, Studies, TaskOption, print_json, tell_unused
from maml_app.commands.opening import open_task
from maml_app.errors import ModelError

if TYPE_CHECKING:
    from maml_app.versions.registry import ModelRegistry

models_app = typer.Typer(
    help="The model versions that a server keeps: list, show, promote, roll back, prune, export, import.",
    no_args_is_help=True,
)

out = Console()
ModelRoot = Annotated[Path, typer.Option("--models", help="where a server keeps its models (its --conf models)")]
ModelTask = Annotated[str, typer.Option("--task", help="the task's name; may be left out if there is one only")]
DEFAULT_MODELS = Path(__file__).resolve().parents[1] / "model"


def _registry(models: Path, task: str) -> ModelRegistry:
    from maml_app.versions.registry import ModelRegistry

    tasks = sorted(path.name for path in models.iterdir() if ModelRegistry(path).versions()) if models.is_dir() else []
    if not task and len(tasks) == 1:
        task = tasks[0]
    if task not in tasks:
        raise ModelError(f"{models}: expected --task to be one of {tasks}, got {task!r}")
    return ModelRegistry(models / task)


@models_app.command("list")
def models_list(models: ModelRoot = DEFAULT_MODELS, task: ModelTask = "", as_json: Json = False) -> None:
    """Print every version: what it was trained on, its validation, and which one is served."""
    registry = _registry(models, task)
    if as_json:
        known = [{"version": version, **registry.report(version)} for version in registry.versions()]
        print_json({"task": registry.root.name, "served": registry.served(), "versions": known})
        return
    table = Table(title=str(registry.root))
    for heading in ("version", "", "parent", "trained on", "validated on", "Dice, mean of subsets", "all modalities"):
        table.add_column(heading)
    for version in registry.versions():
        report = registry.report(version)
        gate = report.get("gate") or {}
        state = "served" if version == registry.served() else "candidate" if gate.get("publish") is False else ""
        scores = report.get("validation") or {}
        numbers = ["–" if scores.get(key) is None else f"{scores[key]:.3f}" for key in ("mean", "full")]
        counts = [str(len(report.get(key, {}))) for key in ("trained_on", "validated_on")]
        table.add_row(version, state, report.get("parent") or "–", *counts, *numbers)
    out.print(table)


@models_app.command("show")
def models_show(version: str, models: ModelRoot = DEFAULT_MODELS, task: ModelTask = "") -> None:
    """Print all that is known about a version, as JSON."""
    registry = _registry(models, task)
    if version not in registry.versions():
        raise ModelError(f"{registry.root}: expected a version of {registry.versions()}, got {version!r}")
    out.print_json(data=registry.report(version))


@models_app.command("promote")
def models_promote(version: str, models: ModelRoot = DEFAULT_MODELS, task: ModelTask = "") -> None:
    """Serve a stored version from now on; a running server follows at once."""
    registry = _registry(models, task)
    registry.serve(version)
    out.print(f"{version} is served")


@models_app.command("rollback")
def models_rollback(models: ModelRoot = DEFAULT_MODELS, task: ModelTask = "") -> None:
    """Serve again what was served before; a running server follows at once."""
    out.print(f"{_registry(models, task).rollback()} is served again")


@models_app.command("prune")
def models_prune(
    keep: Annotated[int, typer.Option(min=1, help="how many of the newest to keep")] = 5,
    models: ModelRoot = DEFAULT_MODELS,
    task: ModelTask = "",
) -> None:
    """Delete old versions; never the one that is served, nor the one before it, to which a rollback leads."""
    registry = _registry(models, task)
    gone = registry.prune(keep)
    out.print(f"deleted: {', '.join(gone) or 'none'}; kept: {', '.join(registry.versions())}")


@models_app.command("export")
def models_export(
    version: str,
    out_file: Annotated[
        Path, typer.Option("--out", help="the TorchScript file (.ts) to write; a .json comes beside it")
    ],
    models: ModelRoot = DEFAULT_MODELS,
    task: ModelTask = "",
) -> None:
    """Write a version as TorchScript, which torch runs without this program, and what its input must be."""
    import torch

    from maml_app.disk import write_atomically, write_text
    from maml_app.network.checkpoint import open_checkpoint
    from maml_app.network.export import export_torchscript

    registry = _registry(models, task)
    if version not in registry.versions():
        raise ModelError(f"{registry.root}: expected a version of {registry.versions()}, got {version!r}")
    network, checkpoint = open_checkpoint(registry.path(version), torch.device("cpu"))
    try:
        write_atomically(
            out_file, lambda part: export_torchscript(part, network, checkpoint.modalities, checkpoint.patch)
        )
        described = {
            "task": registry.report(version).get("task") or checkpoint.task,
            "version": version,
            "input": "images (1, M, X, Y, Z) float32: modalities in the task's order, on a grid with axes nearest to "
            "R, A, S and the task's spacing, normalised as imaging/preprocess.py says; presence (1, M) bool",
            "output": "class probabilities (1, K, X, Y, Z); background first, then the labels by value",
            "patch": list(checkpoint.patch),
        }
        write_text(out_file.with_suffix(".json"), json.dumps(described, indent=1))
    except OSError as error:
        raise ModelError(f"{out_file}: could not be written ({error})") from None
    out.print(f"{version} written to {out_file} and {out_file.with_suffix('.json')}")


@models_app.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(help="a model file: of train --out, torchrun, or another server")],
    studies: Studies,
    task: TaskOption = "",
    models: ModelRoot = DEFAULT_MODELS,
    device: Device = "",
) -> None:
    """Take in a model that was trained elsewhere. It is served if it is not worse on the validation cases here.

    Exit code 1 if it is kept as a candidate only.
    """
    from maml_app.cases.source import teaching
    from maml_app.versions.bring import bring
    from maml_app.versions.predict import pick_device
    from maml_app.versions.registry import ModelRegistry

    spec, source = open_task(studies, task)
    registry = ModelRegistry(models / spec.name)
    registry.belongs_to(source, claim=True)
    # choosing by a test set would make it none
    brought = bring(file, registry, spec, teaching(source.cases(), spec), pick_device(device))
    for case_id, reason in brought.refused.items():
        tell_unused(case_id, reason)
    state = "is served" if brought.served else "is kept as a candidate, and can be promoted"
    out.print(f"{brought.version} {state}: {brought.why}", soft_wrap=True, markup=False)
    raise typer.Exit(0 if brought.served else 1)
