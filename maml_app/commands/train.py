"""`python -m maml_app train`: one model from labelled studies, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from rich.progress import Progress, TaskID

from maml_app.cases.source import teaching
from maml_app.commands.common import COLUMNS, MAX_SEED, Cases, Device, Studies, TaskOption, out, ready_file
from maml_app.commands.opening import chosen_cases, open_task, tell_unused_files
from maml_app.errors import SettingsError


def train(
    studies: Studies,
    out_file: Annotated[Path, typer.Option("--out", help="the model file to write (.safetensors)")],
    task: TaskOption = "",
    steps: Annotated[int | None, typer.Option(min=1, help="training steps; without it as in task.yaml")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="seed of weights, order and augmentation")] = 0,
    network: Annotated[
        Literal["maml", "early-fusion"] | None, typer.Option(help="the ensemble, or the single-network rival")
    ] = None,
    cases: Cases = "",
    validate: Annotated[
        bool, typer.Option("--validate/--no-validate", help="keep the validation patients aside, or train on all")
    ] = True,
    device: Device = "",
) -> None:
    """Train on the studies' labels and write one model file.

    Exit code 1 if a labelled case, an image of one, or a file among the studies could not be used; the model is written
    from the others.
    """
    from maml_app.correcting.trial import refined
    from maml_app.disk import write_text
    from maml_app.evaluation.scores import number
    from maml_app.training.distributed import join_torchrun
    from maml_app.training.load import memory_told
    from maml_app.training.optimise import ranks
    from maml_app.training.progress import Progress as Step
    from maml_app.training.recipe import Recipe
    from maml_app.training.train import train as run
    from maml_app.versions.predict import pick_device
    from maml_app.versions.registry import store_model

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
    described = _ready_description(out_file, studies, task)
    ready_file(out_file)
    chosen = join_torchrun(device) or pick_device(device)
    unused = tell_unused_files(source, cases) if ranks()[0] == 0 else 0
    with Progress(*COLUMNS, console=out) as progress:
        rows: dict[str, TaskID] = {}

        def show(step: Step) -> None:
            if step.note or step.dice:  # told among the bars, and none of its own
                out.print(str(step), soft_wrap=True, markup=False, style="yellow" if step.note else None)
                return
            if step.stage not in rows:
                rows[step.stage] = progress.add_task(step.stage, total=step.total)
            progress.update(rows[step.stage], completed=step.done, description=str(step) if step.losses else step.stage)
            if step.losses and not out.is_terminal:
                out.print(str(step), soft_wrap=True)

        asked = chosen_cases(source, cases)
        studied = teaching(asked, spec)
        if len(studied) < len(asked):
            out.print(f"{len(asked) - len(studied)} cases of a test set do not teach", style="yellow")
        recipe = Recipe(seed=seed, devices=(chosen,), report=show)
        with memory_told():
            result = run(spec, studied, recipe)
        if ranks()[0] > 0:
            return  # under torchrun the first process writes
        result = refined(spec, result, studied, recipe)
    store_model(out_file, result.network, result.checkpoint)
    # beside the model, for people: what it was trained for and how; the file may be used as a task.yaml again
    told = yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
    write_text(described, told)
    out.print(f"model written to {out_file}, trained on {len(result.checkpoint.notes['trained_on'])} cases")
    if result.validation:
        scores = result.validation
        out.print(f"validation Dice: mean over subsets {number(scores.mean)}, all modalities {number(scores.full)}")
    if result.refused or result.left_out:
        out.print(
            f"{len(result.refused)} labelled cases were not used, {len(result.left_out)} were used without an image "
            "that cannot be used; look with check",
            soft_wrap=True,
        )
    raise typer.Exit(1 if result.refused or result.left_out or unused else 0)


def _ready_description(out_file: Path, studies: str, task: str) -> Path:
    """Where the task is written down beside the model; only what an earlier training wrote there is replaced.

    Raises:
        SettingsError: it would take the place of the model, or of a file of somebody's.
    """
    described = out_file.with_suffix(".yaml")
    if described == out_file:
        raise SettingsError(f"--out: expected a model file such as {out_file.stem}.safetensors, got {out_file.name}")
    beside = Path(studies) if Path(studies).is_dir() else Path(studies).parent  # as choose_task looks for it
    stated = [beside, Path(task)] if task else [beside]
    files = [folder / "task.yaml" if folder.is_dir() else folder for folder in stated]
    in_use = described.exists() and any(file.is_file() and file.samefile(described) for file in files)
    if in_use or (described.exists() and not out_file.exists()):
        raise SettingsError(
            f"--out: expected a name beside which the task can be written down, got {out_file}: {described} "
            f"{'is the task in use' if in_use else 'is there, and no training of this model wrote it'}"
        )
    return described
