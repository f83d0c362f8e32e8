"""Looking at a case: what the model and each of its experts say of it, and how much there is to learn from that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.choosing.picture import draw
from maml_app.choosing.store import ScoreStore
from maml_app.choosing.worth import COLD, CaseScore, score_opinions
from maml_app.disk import sweep
from maml_app.errors import MamlError, StudiesError
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.network.window import Opinions, predict_opinions
from maml_app.versions.predict import Model


def look_at(case: Case, model: Model | None, spec: TaskSpec) -> tuple[CaseScore, bytes]:
    """Score one case and draw its worst slice (PNG); without a model only its looks, and no picture.

    Raises:
        CaseError: the case cannot be prepared.
    """
    prepared = prepare(case, spec)
    if model is None:
        nothing = {name: {"entropy": 0.0, "divergence": 0.0} for name in spec.label_values.values()}
        looks = _looks(prepared)
        return CaseScore(
            case.id, COLD, prepared.used, 0.0, 0.0, 0.0, {}, nothing, 0.0, 0, looks, tuple(prepared.left_out)
        ), b""
    opinions, score = opinions_of(prepared, case, model, spec)
    return score, draw(prepared, opinions, score, spec)


def opinions_of(prepared: Prepared, case: Case, model: Model, spec: TaskSpec) -> tuple[Opinions, CaseScore]:
    """What the model and each of its experts say of a prepared case, and the score of that."""
    images, presence = prepared.images.to(model.device), prepared.presence.to(model.device)
    opinions = predict_opinions(model.network, images, presence, model.checkpoint.patch)
    score = score_opinions(opinions, case.id, model.version, spec, prepared.grid.voxel_ml)
    return opinions, replace(score, present=prepared.used, left_out=tuple(prepared.left_out))


def _looks(prepared: Prepared) -> tuple[float, ...]:
    """Percentiles of each modality's normalised values; zeros for an absent one; and the extent in mm."""
    values: list[float] = []
    for image, there in zip(prepared.images, prepared.presence, strict=True):
        points = np.percentile(image.numpy(), (10, 25, 50, 75, 90, 99)) if there else np.zeros(6)
        values += [round(float(point), 4) for point in points]
    sides = zip(prepared.grid.shape, prepared.grid.spacing_mm, strict=True)
    return (*values, *(round(side * edge / 100, 3) for side, edge in sides))


def score_all(
    cases: Sequence[Case], model: Model | None, spec: TaskSpec, store: ScoreStore
) -> Iterator[tuple[str, str]]:
    """Score what has no score of this version yet; stopped at any moment, it goes on where it was.

    Yields each case's id when it is done, and what was wrong with it ('' if nothing was).

    Raises:
        StudiesError: scores cannot be written.
    """
    sweep(store.root / (model.version if model else COLD))
    for case in store.waiting(cases, model.version if model else COLD):
        problem = ""
        try:
            store.write(*look_at(case, model, spec))
        except StudiesError:
            raise  # no case after this one can be kept either
        except MamlError as error:
            problem = str(error)
        yield case.id, problem
