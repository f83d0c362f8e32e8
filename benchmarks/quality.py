"""Does the ensemble know how good its answers are: the Dice they promise themselves against the true one.

Takes the models that `benchmarks.rivals` trained in folds by patient and asks each about the patients it has not seen,
under every subset of modalities. What is expected of a fold's answers is fitted on the other folds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from scipy.stats import spearmanr

from benchmarks.rivals import splits
from benchmarks.rivals_variants import OURS, changed
from maml_app.cases.spec import TaskSpec
from maml_app.disk import write_text
from maml_app.evaluation.evaluate import score_case
from maml_app.evaluation.quality import fitted
from maml_app.evaluation.scores import subset_name
from maml_app.stores.choice import choose_task
from maml_app.stores.folder import FolderStore
from maml_app.versions.predict import load_model

RESAMPLES = 2000
out = Console(highlight=False)


@dataclass(frozen=True)
class Row:
    """One answer: its promise and its Dice, means over what is scored."""

    fold: int
    case: str
    subset: str
    promised: float
    dice: float


def asked(spec: TaskSpec, studies: Path, models: Path, seed: int, folds: int) -> list[Row]:
    """Every answer of every fold's model that is there; answers that find nothing are left out."""
    cases = [case for case in FolderStore(studies, spec).cases() if case.label is not None]
    rows = []
    for fold, held in enumerate(splits(cases, "", folds)):
        path = models / f"{OURS}-{fold}-{seed}.safetensors"
        if not path.is_file():
            continue
        segmenter = load_model(path, spec, OURS, torch.device("cpu")).segmenter(spec)
        for case in (case for case in cases if case.id in held):
            found = score_case(segmenter, case)
            for subset, promised in found.promised.items():
                dice = [value for value in found.dice[subset].values() if value is not None]
                if promised and dice:
                    rows.append(
                        Row(fold, case.id, subset, float(np.mean(list(promised.values()))), float(np.mean(dice)))
                    )
            out.print(f"fold {fold}, {case.id}")
    return rows


def rank_correlation(rows: Sequence[Row]) -> dict[str, Any]:
    """Spearman's, with a 95 % bootstrap interval over patients."""
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    cases, rng = sorted(by_case), np.random.default_rng(0)

    def spearman(chosen: Sequence[Row]) -> float:
        return float(spearmanr([row.promised for row in chosen], [row.dice for row in chosen]).statistic)

    draws = [
        spearman([row for index in rng.integers(len(cases), size=len(cases)) for row in by_case[cases[index]]])
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"answers": len(rows), "patients": len(cases), "spearman": spearman(rows), "interval": [low, high]}


def expected(rows: Sequence[Row]) -> dict[str, float]:
    """How far what is expected, as fitted on the other folds, lies from the truth."""
    apart, from_mean, within = [], [], []
    for fold in {row.fold for row in rows}:
        pairs: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row.fold != fold:
                pairs.setdefault(row.case, []).append((row.promised, row.dice))
        expectation = fitted(pairs)
        if expectation is None:
            continue
        usual = float(np.mean([dice for of_case in pairs.values() for _, dice in of_case]))
        for row in (row for row in rows if row.fold == fold):
            error = abs(row.dice - (expectation.dice({"all": row.promised}) or 0))
            apart.append(error)
            within.append(error <= expectation.spread)
            from_mean.append(abs(row.dice - usual))
    errors: Mapping[str, list[Any]] = {"error": apart, "error of the mean": from_mean, "within the spread": within}
    return {name: float(np.mean(values)) for name, values in errors.items() if values}


def main(
    studies: Annotated[Path, typer.Argument(help="folder of labelled studies")],
    rivals: Annotated[Path, typer.Argument(help="folder of a study by benchmarks.rivals, with folds")],
    out_file: Annotated[Path, typer.Argument(help="JSON file")],
    task: Annotated[str, typer.Option(help="as of the study")] = "sarcoma_pet_ct_mr",
    seed: Annotated[int, typer.Option(help="of the models")] = 0,
    folds: Annotated[int, typer.Option(min=2)] = 5,
) -> None:
    """Ask, print, and keep the numbers."""
    torch.set_num_threads(1)
    spec = changed(choose_task(studies, task), {})
    rows = asked(spec, studies, rivals / "models", seed, folds)
    whole = [row for row in rows if row.subset == subset_name(spec.modality_names)]
    found = {
        "all modalities": rank_correlation(whole),
        "every subset": rank_correlation(rows),
        "expected, all modalities": expected(whole),
        "expected, every subset": expected(rows),
    }
    write_text(out_file, json.dumps({**found, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    out.print_json(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
