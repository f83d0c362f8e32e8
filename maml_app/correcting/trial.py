"""After a training: a refinement of clicks is trained too, and stays in the model only where it is worth it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.annotator import Annotator
from maml_app.correcting.correct import Corrector
from maml_app.correcting.marks import REACH_MM
from maml_app.correcting.practice import Lesson, practise
from maml_app.correcting.view import view
from maml_app.errors import MamlError
from maml_app.imaging.geometry import around
from maml_app.imaging.labels import prepare_label
from maml_app.machine import is_out_of_memory
from maml_app.training.progress import Progress, counted
from maml_app.training.recipe import Recipe
from maml_app.training.train import Trained
from maml_app.versions.kept import LIMIT_BYTES, Kept
from maml_app.versions.predict import Model, look

SHOWN = (0, 1, 3, 5, 10)  # clicks
Curves = dict[str, dict[str, float]]


def refined(spec: TaskSpec, trained: Trained, cases: Sequence[Case], recipe: Recipe) -> Trained:
    """The same with a refinement, if clicks mend the validation cases with it at least as well as with the classifier.

    The notes tell both. Without a validation case nothing would speak for it, and none is trained. What stands in its
    way is told, and costs the model nothing else.

    Args:
        cases: those that were trained and validated on are among them.
    """
    try:
        return _refined(spec, trained, cases, recipe)
    except (MamlError, RuntimeError, MemoryError) as error:
        if not isinstance(error, MamlError) and not is_out_of_memory(error):
            raise
        reason = str(error) if isinstance(error, MamlError) else f"out of memory ({error})"
    recipe.report(Progress("refine", 0, 1, {}, note=f"clicks are answered by the classifier, no refinement: {reason}"))
    return trained


def _refined(spec: TaskSpec, trained: Trained, cases: Sequence[Case], recipe: Recipe) -> Trained:
    checkpoint, steps = trained.checkpoint, spec.training.refine_steps
    learnt = [case for case in cases if case.id in checkpoint.notes["trained_on"]]
    judged = [case for case in cases if case.id in checkpoint.notes["validated_on"]]
    if not (steps and learnt and judged):
        return trained
    began = time.monotonic()
    model = Model("candidate", trained.network, checkpoint, recipe.device)
    refiner = practise(
        lessons(replace(model, kept=Kept(0)), spec, learnt, recipe), checkpoint.modalities, steps, recipe
    )
    ways = {"classifier": checkpoint, "refinement": replace(checkpoint, refiner=refiner)}
    dice: Curves = {}
    for way, its in ways.items():
        dice[way] = curve(Annotator(Corrector(spec), replace(model, checkpoint=its)), judged, recipe)
    kept = max(dice, key=lambda way: (statistics.fmean(dice[way].values()), way))
    told = {"kept": kept == "refinement", "cases": len(judged), "steps": steps, "dice_after_clicks": dice}
    told["seconds"] = round(time.monotonic() - began, 1)
    recipe.report(Progress("refine", steps, steps, {}, note=_told(dice, kept)))
    return replace(trained, checkpoint=replace(ways[kept], notes={**checkpoint.notes, "refinement": told}))


def lessons(model: Model, spec: TaskSpec, cases: Sequence[Case], recipe: Recipe) -> list[Lesson]:
    """What there is to learn from each label that cases have; of some of them, where memory would not do for all."""
    tick = counted("look", len(cases), recipe.report)
    found: list[Lesson] = []
    held = 0
    for index in np.random.default_rng(recipe.seed).permutation(len(cases)):
        case = cases[index]
        tick(case.id)
        seen = look(model, case, spec)
        grid = seen.prepared.grid
        label = prepare_label(case, spec, grid)
        anything = (label > 0) | (seen.opinions.fused[0].numpy() < 0.5)
        margin = np.ceil(2 * REACH_MM / np.array(grid.spacing_mm)).astype(int)
        x, y, z = (slice(*ends) for ends in zip(*around(torch.from_numpy(anything), margin), strict=True))
        for value in np.unique(label[label > 0]).tolist():
            part = view(seen, value, range(len(spec.modalities))).cut((x, y, z)).copied()
            found.append(Lesson(part, label[x, y, z] == value, grid.spacing_mm))
            held += part.size
        if held > LIMIT_BYTES:
            break
    return found


def curve(annotator: Annotator, cases: Sequence[Case], recipe: Recipe) -> dict[str, float]:
    """Mean Dice over cases and labels after so many clicks of a played annotator."""
    tick = counted("click", len(cases), recipe.report)
    rows = []
    for case in cases:
        tick(case.id)
        rows += [session.dice for session in annotator.play_case(case)]
    return {str(clicks): round(statistics.fmean(row[clicks] for row in rows), 4) for clicks in SHOWN}


def _told(dice: Curves, kept: str) -> str:
    after = "; ".join(f"{way} {' '.join(f'{value:.3f}' for value in row.values())}" for way, row in dice.items())
    clicks = ", ".join(map(str, SHOWN))
    return f"clicks are answered by the {kept}; validation Dice after {clicks} clicks: {after}"
