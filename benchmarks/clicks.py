"""What clicks are worth: an annotator is played on patients that the model has not seen, fold by fold.

Each row is one way to correct: all modalities, one of them alone, and all of them without a model, from nothing. Times
are ratios to a whole inference of the same case, in the same process.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.rivals import splits
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.annotator import Annotator, Session
from maml_app.correcting.correct import Corrector, empty
from maml_app.disk import write_text
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.volume import Volume
from maml_app.stores.choice import choose_task
from maml_app.stores.folder import FolderStore
from maml_app.versions.kept import Kept
from maml_app.versions.predict import Model, load_model, pick_device, segment

SHOWN = (0, 1, 3, 5, 10)
GOOD = 0.85  # Dice
RESAMPLES = 10_000
NOTHING = "all, without a model"

out = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """One case clicked in one way, and the seconds of a whole inference of it."""

    way: str
    fold: int
    session: Session
    inference_s: float


def play_fold(model: Model, spec: TaskSpec, studies: Path, held: Sequence[str], fold: int, rounds: int) -> list[Row]:
    """Every way on every held-out case of a fold."""
    ways: dict[str, Corrector] = {"all": Corrector(spec)}
    ways |= {f"{name} alone": Corrector(spec, (name,)) for name in spec.modality_names}
    bare = Corrector(spec)
    rows = []
    store = FolderStore(studies, spec)
    for case_id in held:
        case = store.case(case_id)
        truth = read_case_label(case, spec)
        asked = next(name for name in case.grids if truth.grid.same_as(empty(case, name).grid))
        fresh = Model(model.version, model.network, model.checkpoint, model.device, Kept(0))
        began = time.perf_counter()
        segment(fresh, case, asked, spec)
        whole = time.perf_counter() - began
        start = Volume(segment(model, case, asked, spec).label, truth.affine)
        for value in spec.label_values:
            for name, corrector in ways.items():
                if name.removesuffix(" alone") in ("all", *case.images):
                    rows.append(
                        Row(name, fold, Annotator(corrector, model, rounds).play(case, truth, start, value), whole)
                    )
            nothing = Annotator(bare, None, rounds).play(case, truth, empty(case, asked), value)
            rows.append(Row(NOTHING, fold, nothing, whole))
    return rows


def main(
    studies: Annotated[Path, typer.Argument(help="folder of labelled studies")],
    models: Annotated[Path, typer.Argument(help="models/ of a study of rivals, by folds over the same studies")],
    out_file: Annotated[Path, typer.Argument(help="the JSON to write; a table is printed")],
    task: Annotated[str, typer.Option(help="the task file of that study")] = "docs/results/rivals/sarcoma.yaml",
    variant: Annotated[str, typer.Option(help="whose models")] = "maml",
    folds: Annotated[int, typer.Option(min=2)] = 5,
    rounds: Annotated[int, typer.Option(min=1)] = 10,
) -> None:
    """Play every fold and print Dice after so many clicks, with 95 % intervals by patient."""
    spec = choose_task(studies, task)
    cases = [case for case in FolderStore(studies, spec).cases() if case.label is not None]
    rows: list[Row] = []
    for fold, held in enumerate(splits(cases, "", folds)):
        model = load_model(models / f"{variant}-{fold}-0.safetensors", spec, variant, pick_device("cpu"))
        rows += play_fold(model, spec, studies, held, fold, rounds)
        out.print(f"fold {fold}: {len(held)} cases", style="dim")
    told = {way: summary([row for row in rows if row.way == way]) for way in dict.fromkeys(row.way for row in rows)}
    versus = {way: against(rows, "all", way) for way in told if way != "all"}
    content = {"ways": told, "all_minus": versus, "sessions": [asdict(row) for row in rows]}
    write_text(out_file, json.dumps(content, indent=1))
    out.print(table(told, versus), soft_wrap=True, markup=False)


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
