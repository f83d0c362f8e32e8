"""Scores of cases on disk: computed once for a model version and case, kept with a picture of the worst slice.

<root>/v0003/CASE.json   what `CaseScore` holds
<root>/v0003/CASE.png    the slice where the experts disagree most, with their contours
<root>/none/CASE.json    before the first model: what the images look like, for diversity alone
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from maml_app.cases.case import Case, check_id
from maml_app.cases.spec import TaskSpec
from maml_app.errors import MamlError, StudiesError
from maml_app.imaging.files import write_bytes, write_text
from maml_app.imaging.preprocess import Prepared, prepare
from maml_app.learning.predict import Model
from maml_app.learning.scores import COLD, CaseScore, score_opinions
from maml_app.network.window import Opinions, predict_opinions

PANEL = 240  # pixels of a picture's longer side, about
COLOURS = ("#ff5050", "#50b4ff", "#ffd23c", "#7dff7d", "#ff8cff", "#ffa050", "#8cffff", "#c8a0ff")


class ScoreStore:
    """The scores that are kept under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, version: str, cases: Sequence[str] | None = None) -> dict[str, CaseScore]:
        """All scores of a version, or those of some cases, by case id; a damaged file counts as not there."""
        found = {}
        folder = self.root / version
        for path in folder.glob("*.json") if cases is None else [folder / f"{case}.json" for case in cases]:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                content |= {"present": tuple(content["present"]), "features": tuple(content["features"])}
                found[path.stem] = CaseScore(**content)
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return found

    def best(self, versions: Sequence[str], waiting: Sequence[str]) -> dict[str, CaseScore]:
        """The scores to choose by: those of the newest version that has half of the waiting cases, else the fullest."""
        fullest: dict[str, CaseScore] = {}
        reached = -1
        for version in [*reversed(versions), COLD]:
            scores = self.read(version)
            count = sum(case in scores for case in waiting)
            if 2 * count >= len(waiting) and scores:
                return scores
            if count > reached:
                fullest, reached = scores, count
        return fullest

    def picture(self, version: str, case_id: str) -> Path | None:
        """The picture of a case, if there is one."""
        path = self.root / version / f"{check_id(case_id)}.png"
        return path if path.is_file() else None

    def write(self, score: CaseScore, picture: bytes) -> None:
        """Keep a score and its picture.

        Raises:
            StudiesError: they cannot be written.
        """
        folder = self.root / score.version
        try:
            if picture:
                write_bytes(folder / f"{score.case}.png", picture)
            write_text(folder / f"{score.case}.json", json.dumps(asdict(score)))
        except OSError as error:
            raise StudiesError(f"{folder}: scores could not be written ({error})") from None

    def waiting(self, cases: Sequence[Case], version: str) -> list[Case]:
        """Cases that have no score of this version, or one from before a modality came or went; unlabelled first."""
        scores = self.read(version, [case.id for case in cases])
        stale = [case for case in cases if case.id not in scores or set(scores[case.id].present) != set(_present(case))]
        return sorted(stale, key=lambda case: case.label is not None)


def _present(case: Case) -> tuple[str, ...]:
    return tuple(case.images)


def score_case(case: Case, model: Model | None, spec: TaskSpec) -> tuple[CaseScore, bytes]:
    """Score one case and draw its worst slice (PNG); without a model only its looks, and no picture.

    Raises:
        CaseError: the case cannot be prepared.
    """
    prepared = prepare(case, spec)
    if model is None:
        present = tuple(name for name in spec.modality_names if name in case.images)
        nothing = {name: {"entropy": 0.0, "divergence": 0.0} for name in spec.label_values.values()}
        looks = _looks(prepared)
        return CaseScore(case.id, COLD, present, 0.0, 0.0, 0.0, {}, nothing, 0.0, 0, looks), b""
    opinions, score = look(prepared, case, model, spec)
    return score, _picture(prepared, opinions, score, spec)


def look(prepared: Prepared, case: Case, model: Model, spec: TaskSpec) -> tuple[Opinions, CaseScore]:
    """What the model and each of its experts say of a prepared case, and the score of that."""
    images, presence = prepared.images.to(model.device), prepared.presence.to(model.device)
    opinions = predict_opinions(model.network, images, presence, model.checkpoint.patch)
    score = score_opinions(opinions, case.id, model.version, spec, prepared.grid.voxel_ml)
    present = tuple(name for name in spec.modality_names if name in case.images)
    return opinions, replace(score, present=present)


def _looks(prepared: Prepared) -> tuple[float, ...]:
    """Percentiles of each modality's normalised values; zeros for an absent one; and the extent in mm."""
    values: list[float] = []
    for image, there in zip(prepared.images, prepared.presence, strict=True):
        points = np.percentile(image.numpy(), (10, 25, 50, 75, 90, 99)) if there else np.zeros(6)
        values += [round(float(point), 4) for point in points]
    sides = zip(prepared.grid.shape, prepared.grid.spacing_mm, strict=True)
    return (*values, *(round(side * edge / 100, 3) for side, edge in sides))


def _picture(prepared: Prepared, opinions: Opinions, score: CaseScore, spec: TaskSpec) -> bytes:
    """The worst slice in each present modality: the ensemble's contour in white, each expert's in its colour.

    Drawn pixel by pixel: there is one for every case, and plotting would take ten times as long as looking at it.
    """
    from PIL import Image, ImageDraw
    from skimage.measure import find_contours

    masks = [(opinions.fused, "white", 2), *((one, COLOURS[index], 1) for index, one in opinions.experts.items())]
    panels = []
    for index in _shown(prepared):
        image = _upright(prepared.images[index], score.worst_slice).numpy()
        low, span = float(image.min()), max(float(np.ptp(image)), 1e-6)
        zoom = max(1, round(PANEL / max(image.shape)))
        grey = np.kron((image - low) / span * 255, np.ones((zoom, zoom))).astype(np.uint8)
        panel = Image.fromarray(grey).convert("RGB")
        pen = ImageDraw.Draw(panel)
        for probabilities, colour, width in masks:
            found = _upright((probabilities.argmax(dim=0) > 0).float(), score.worst_slice)
            for line in find_contours(np.pad(found.numpy(), 1), 0.5):
                pen.line([((x - 0.5) * zoom, (y - 0.5) * zoom) for y, x in line], fill=colour, width=width)
        pen.text((3, 1), spec.modality_names[index], fill=COLOURS[index])
        panels.append(np.asarray(panel))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(panels, axis=1)).save(buffer, format="png")
    return buffer.getvalue()


def _shown(prepared: Prepared) -> list[int]:
    return [index for index, there in enumerate(prepared.presence.tolist()) if there]


def _upright(values: torch.Tensor, place: int) -> torch.Tensor:
    """A slice of (X, Y, Z) as an image: seen from below as radiologists do, the patient's right on the left."""
    return values[:, :, place].T.flip(0, 1)


def score_all(
    cases: Sequence[Case],
    model: Model | None,
    spec: TaskSpec,
    store: ScoreStore,
    tick: Callable[[str, str], None] = lambda case_id, problem: None,
    wait: Callable[[], float] = lambda: 0.0,
) -> int:
    """Score what has no score of this version yet; how many were. Stopped at any moment, it goes on where it was.

    Args:
        tick: called after each case with its id and what was wrong with it ('' if nothing was).
        wait: called before each case, to let others go first.
    """
    done = 0
    for case in store.waiting(cases, model.version if model else COLD):
        wait()
        try:
            store.write(*score_case(case, model, spec))
            done += 1
            tick(case.id, "")
        except StudiesError:
            raise  # no case after this one can be kept either
        except MamlError as error:
            tick(case.id, str(error))
    return done
