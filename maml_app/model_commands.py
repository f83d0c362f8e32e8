"""`python -m maml_app models …`: the versions that a server keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from maml_app.errors import ModelError

if TYPE_CHECKING:
    from maml_app.learning.registry import ModelRegistry

models_app = typer.Typer(
    help="The model versions that a server keeps: list them, show one, promote one, or roll back.", no_args_is_help=True
)

out = Console()
ModelRoot = Annotated[Path, typer.Option("--models", help="where a server keeps its models (its --conf models)")]
ModelTask = Annotated[str, typer.Option("--task", help="the task's name; may be left out if there is one only")]
DEFAULT_MODELS = Path(__file__).resolve().parent / "model"


def _registry(models: Path, task: str) -> ModelRegistry:
    from maml_app.learning.registry import ModelRegistry

    tasks = sorted(path.name for path in models.iterdir() if ModelRegistry(path).versions()) if models.is_dir() else []
    if not task and len(tasks) == 1:
        task = tasks[0]
    if task not in tasks:
        raise ModelError(f"{models}: expected --task to be one of {tasks}, got {task!r}")
    return ModelRegistry(models / task)


@models_app.command("list")
def models_list(models: ModelRoot = DEFAULT_MODELS, task: ModelTask = "") -> None:
    """Print every version: what it was trained on, its validation, and which one is served."""
    registry = _registry(models, task)
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
