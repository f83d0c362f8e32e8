"""`python -m maml_app queue`: the waiting cases in a strategy's order, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from maml_app.commands.common import Device, Json, Studies, TaskOption, out, print_json, progress_bar
from maml_app.commands.models import DEFAULT_MODELS
from maml_app.commands.opening import open_task
from maml_app.errors import MamlError, ModelError

if TYPE_CHECKING:
    from maml_app.choosing.strategies import Ranked


def queue(
    studies: Studies,
    task: TaskOption = "",
    models: Annotated[
        Path, typer.Option(help="where a server keeps its models and scores (its --conf models)")
    ] = DEFAULT_MODELS,
    strategy: Annotated[str, typer.Option(help="maml, disagreement, entropy, diverse, foreground_random, …")] = "maml",
    score: Annotated[bool, typer.Option("--score", help="first score the cases that have no score yet")] = False,
    as_json: Json = False,
    device: Device = "",
    ray: Annotated[
        str, typer.Option(help="score on a Ray cluster: its address, or `local` for the cores or GPUs of this machine")
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="on Ray, at most so many; 0: as many as there are")] = 0,
) -> None:
    """Print the cases that wait for a label, best first, each with its score and the reason."""
    from maml_app.choosing.cluster import Cluster, score_on_cluster
    from maml_app.choosing.look import score_all
    from maml_app.choosing.store import ScoreStore
    from maml_app.choosing.strategies import STRATEGIES, Pool, rank
    from maml_app.choosing.worth import COLD
    from maml_app.versions.predict import load_served, pick_device
    from maml_app.versions.registry import ModelRegistry

    if strategy not in STRATEGIES:
        raise MamlError(f"--strategy: expected one of {list(STRATEGIES)}, got {strategy!r}")
    spec, source = open_task(studies, task)
    registry = ModelRegistry(models / spec.name)
    registry.belongs_to(source, claim=score or bool(ray))
    store = ScoreStore(registry.scores)
    cases = source.cases()
    if score or ray:
        try:
            model = load_served(registry, spec, pick_device(device))
        except ModelError as error:
            out.print(f"{error}; scoring by what the images look like", soft_wrap=True)
            model = None
        version = model.version if model else COLD
        if ray:
            scoring = score_on_cluster(cases, version, spec, registry, Cluster(ray, workers))
        else:
            scoring = score_all(cases, model, spec, store)
        with progress_bar("scoring", len(store.waiting(cases, version))) as advance:
            for case_id, problem in scoring:
                advance(case_id)
                if problem:
                    out.print(f"{case_id}: {problem}", soft_wrap=True)
    waiting = [case for case in cases if case.label is None]
    labelled = [case for case in cases if case.label is not None]
    scores = store.best(registry.history(), [case.id for case in waiting])
    versions = sorted({score.version for score in scores.values()})
    ranked = rank(strategy, Pool(waiting, labelled, scores, spec, seed=len(labelled)))
    if as_json:
        print_json({"strategy": strategy, "labelled": len(labelled), "queue": [_row(case) for case in ranked]})
        return
    table = Table(title=f"{len(waiting)} waiting, {len(labelled)} labelled; {strategy}, scores of {versions or 'none'}")
    for heading in ("", "case", "score", "reason"):
        table.add_column(heading, overflow="fold")
    for case in ranked:
        table.add_row(str(case.place), case.case, "–" if case.value is None else f"{case.value:.3f}", case.reason)
    out.print(table)


def _row(ranked: Ranked) -> dict[str, Any]:
    return {name: getattr(ranked, name) for name in ("case", "place", "of", "value", "reason")}
