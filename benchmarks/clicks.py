"""What clicks are worth: an annotator is played on patients that the model has not seen, fold by fold.

Each row is one way to correct: the classifier with all modalities, with one of them alone, and with all of them without
a model, from nothing; a refinement, trained on the fold's training patients, with all modalities or one; scribbles in
place of clicks; and a rival after DeepEdit, trained on the same patients. Times are ratios to a whole inference of the
same case, in the same process.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.deepedit import DeepEditAnnotator, train_deepedit
from benchmarks.rivals import splits
from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.annotator import Annotator, Session, next_scribble
from maml_app.correcting.correct import Corrector
from maml_app.correcting.practice import practise
from maml_app.correcting.trial import lessons
from maml_app.disk import write_text
from maml_app.network.refine import Refiner
from maml_app.stores.choice import choose_task
from maml_app.stores.folder import FolderStore
from maml_app.training.recipe import Recipe
from maml_app.versions.kept import Kept
from maml_app.versions.predict import Model, load_model, pick_device, segment

SHOWN = (0, 1, 3, 5, 10)
GOOD = 0.85  # Dice
RESAMPLES = 10_000
ALL = "all modalities"
NOTHING = "all modalities, no model, from nothing"
REFINED = "refinement, "
SCRIBBLED = "scribbles, "
DEEPEDIT = "DeepEdit-like, all modalities"

out = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """One case clicked in one way, and the seconds of a whole inference of it."""

    way: str
    fold: int
    session: Session
    inference_s: float


def ways_of(spec: TaskSpec, model: Model, refiner: Refiner | None) -> dict[str, Annotator]:
    """Every way to correct."""
    seeing: dict[str, tuple[str, ...]] = {ALL: ()} | {f"{name} alone": (name,) for name in spec.modality_names}
    ways = {way: Annotator(Corrector(spec, names), model) for way, names in seeing.items()}
    ways[NOTHING] = Annotator(Corrector(spec), None)
    if refiner:
        refining = replace(model, checkpoint=replace(model.checkpoint, refiner=refiner))
        ways |= {REFINED + way: Annotator(Corrector(spec, names), refining) for way, names in seeing.items()}
    for way in (ALL, REFINED + ALL):
        if way in ways:
            ways[SCRIBBLED + way] = replace(ways[way], draw=next_scribble)
    return ways


def play_fold(ways: Mapping[str, Annotator], model: Model, cases: Sequence[Case], fold: int) -> list[Row]:
    """Every way on every held-out case of a fold that has the modalities for it."""
    rows = []
    spec = ways[ALL].corrector.spec
    for case in cases:
        fresh = replace(model, kept=Kept(0))
        began = time.perf_counter()
        segment(fresh, case, next(iter(case.images)), spec)
        whole = time.perf_counter() - began
        for way, annotator in ways.items():
            if any(spec.modality_names[index] in case.images for index in annotator.corrector.sees):
                rows += [Row(way, fold, session, whole) for session in annotator.play_case(case)]
    return rows


def trained_refiner(model: Model, spec: TaskSpec, cases: Sequence[Case], steps: int) -> Refiner | None:
    """A refinement that learns from the cases; None of no steps."""
    if not steps:
        return None
    recipe = Recipe(devices=(model.device,))
    return practise(lessons(replace(model, kept=Kept(0)), spec, cases, recipe), len(spec.modalities), steps, recipe)


def main(
    studies: Annotated[Path, typer.Argument(help="folder of labelled studies")],
    models: Annotated[Path, typer.Argument(help="models/ of a study of rivals, by folds over the same studies")],
    out_file: Annotated[Path, typer.Argument(help="the JSON to write; a table is printed")],
    task: Annotated[str, typer.Option(help="the task file of that study")] = "docs/results/rivals/sarcoma.yaml",
    variant: Annotated[str, typer.Option(help="whose models")] = "maml",
    folds: Annotated[int, typer.Option(min=2)] = 5,
    seed: Annotated[int, typer.Option(min=0, help="of the models")] = 0,
    refine_steps: Annotated[int, typer.Option(min=0, help="0: no refinement is trained")] = 300,
    deepedit_steps: Annotated[int, typer.Option(min=0, help="0: the rival after DeepEdit is not trained")] = 300,
    only: Annotated[list[str] | None, typer.Option(help="a row to play beside the first; without any all")] = None,
) -> None:
    """Play every fold that has a model and print Dice after so many clicks so far, with 95 % intervals by patient."""
    spec = choose_task(studies, task)
    cases = [case for case in FolderStore(studies, spec).cases() if case.label is not None]
    rows: list[Row] = []
    for fold, held in enumerate(splits(cases, "", folds)):
        file = models / f"{variant}-{fold}-{seed}.safetensors"
        if not file.is_file():
            out.print(f"fold {fold}: there is no {file}", style="yellow")
            continue
        model = load_model(file, spec, variant, pick_device("cpu"))
        model = replace(model, checkpoint=replace(model.checkpoint, refiner=None))  # one of the benchmark's own
        learnt = [case for case in cases if case.id not in held]
        ways = ways_of(spec, model, trained_refiner(model, spec, learnt, refine_steps))
        if deepedit_steps:
            rival = train_deepedit(spec, learnt, deepedit_steps, Recipe(seed=seed, devices=(model.device,)))
            out.print(f"fold {fold}: the rival learnt for {rival.minutes:.1f} min of the processor", style="dim")
            ways[DEEPEDIT] = DeepEditAnnotator(rival, None)
        ways = {way: its for way, its in ways.items() if way in (ALL, *(only or [way]))}
        rows += play_fold(ways, model, [case for case in cases if case.id in held], fold)
        told, versus = kept(rows, out_file)
        out.print(f"fold {fold}: {len(held)} cases", style="dim")
        out.print(table(told, versus), soft_wrap=True, markup=False)


def kept(rows: Sequence[Row], out_file: Path) -> tuple[dict[str, Any], dict[str, tuple[float, float, float]]]:
    """Write what is known so far; a summary of each way, and by how much all modalities are ahead of it."""
    told = {way: summary([row for row in rows if row.way == way]) for way in dict.fromkeys(row.way for row in rows)}
    versus = {way: against(rows, ALL, way) for way in told if way != ALL}
    content = {"ways": told, "all_minus": versus, "sessions": [asdict(row) for row in rows]}
    write_text(out_file, json.dumps(content, indent=1))
    return told, versus


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over cases: Dice by clicks, area under it, clicks until it is good, harm, and time of a click."""
    curves = np.array([row.session.dice for row in rows])
    clicks = sum(row.session.clicks for row in rows)
    times = sorted(second / row.inference_s for row in rows for second in row.session.seconds[1:])
    reached = [next((count for count, dice in enumerate(curve) if dice >= GOOD), None) for curve in curves]
    return {
        "cases": len(rows),
        "dice": {str(count): interval(curves[:, count]) for count in SHOWN if count < curves.shape[1]},
        "area": round(float(curves.mean()), 3),
        "good": f"{sum(count is not None for count in reached)} of {len(rows)}",
        "clicks_to_good": statistics.median(count for count in reached if count is not None) if any(reached) else None,
        "harmful": f"{sum(row.session.harmful for row in rows)} of {clicks}",
        "of_an_inference": {"median": round(times[len(times) // 2], 3), "p95": round(times[int(0.95 * len(times))], 3)},
    }


def interval(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over cases (one a patient)."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return round(float(values.mean()), 3), round(float(low), 3), round(float(high), 3)


def against(rows: Sequence[Row], way: str, other: str, count: int = 5) -> tuple[float, float, float]:
    """Difference in Dice after `count` clicks, paired by case, on the cases that have both."""
    found = {name: {r.session.case: r.session.dice[count] for r in rows if r.way == name} for name in (way, other)}
    return interval(np.array([found[way][case] - dice for case, dice in found[other].items()]))


def table(told: Mapping[str, Any], versus: Mapping[str, tuple[float, float, float]]) -> str:
    """A Markdown table."""
    heads = [
        "clicks see",
        *(f"Dice after {count}" for count in SHOWN),
        "area",
        "harmful",
        "time of a click",
        "all minus it",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for way, row in told.items():
        dice = ["{:.3f} ({:.3f} to {:.3f})".format(*row["dice"][str(count)]) for count in SHOWN]
        ratio = f"{row['of_an_inference']['median']} (p95 {row['of_an_inference']['p95']})"
        difference = "{:+.3f} ({:+.3f} to {:+.3f})".format(*versus[way]) if way in versus else "–"
        lines.append(f"| {way} | " + " | ".join([*dice, str(row["area"]), row["harmful"], ratio, difference]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
