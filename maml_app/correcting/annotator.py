"""An annotator who clicks or scribbles, played: always into the largest error, near its middle."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.correct import Corrected, Marked, Prompt, along, empty
from maml_app.evaluation.metrics import dice
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.volume import Array, Volume
from maml_app.versions.predict import Model, segment

NEAR_MIDDLE = 0.8  # of the largest depth in an error: as deep a click lies at least
WELL_INSIDE = 0.5  # of the depth of its beginning on its slice: as deep a scribble stays
DIRECTIONS = 16  # in which it may run


@dataclass(frozen=True)
class Session:
    """One label of one case, clicked: Dice before the first click and after each, and each correction's seconds."""

    case: str
    label: str
    dice: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def clicks(self) -> int:
        return len(self.seconds)

    @property
    def harmful(self) -> int:
        """How many clicks made it worse."""
        after = self.dice[: self.clicks + 1]
        return sum(new < old for old, new in itertools.pairwise(after))


Drawing = Callable[[Volume, Array, int, np.random.Generator], Prompt | None]


def next_click(label: Volume, truth: Array, value: int, rng: np.random.Generator) -> Prompt | None:
    """Where a person would click next: inside the largest connected part of what is wrong; None if nothing is.

    Args:
        truth: label map on the label's grid.
    """
    found = _middle_of_error(label, truth, value, rng)
    return found and _prompt(label, [found[1]], truth == value)


def next_scribble(label: Volume, truth: Array, value: int, rng: np.random.Generator) -> Prompt | None:
    """As `next_click`, and from there the longest straight line on its slice that stays well inside of the error."""
    found = _middle_of_error(label, truth, value, rng)
    if found is None:
        return None
    error, (x, y, z) = found
    across = np.array(label.grid.spacing_mm[:2])
    depth = ndimage.distance_transform_edt(error[:, :, z], sampling=across)
    inside = depth >= WELL_INSIDE * depth[x, y]
    step = across.min() / 2
    best = [(x, y, z)]
    for angle in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        way = np.array([np.cos(angle), np.sin(angle)]) * step / across
        ends = [_last_inside(inside, np.array([x, y], float), sign * way) for sign in (-1, 1)]
        if np.linalg.norm((ends[1] - ends[0]) * across) > np.linalg.norm(np.subtract(best[-1], best[0])[:2] * across):
            best = [(*end, z) for end in ends]
    return _prompt(label, best, truth == value)


def _middle_of_error(
    label: Volume, truth: Array, value: int, rng: np.random.Generator
) -> tuple[Array, tuple[int, int, int]] | None:
    """The largest connected part of what is wrong (X, Y, Z), and a voxel near its middle; None if nothing is."""
    parts, count = ndimage.label((label.voxels == value) ^ (truth == value))
    if not count:
        return None
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    depth = ndimage.distance_transform_edt(largest, sampling=label.grid.spacing_mm)
    places = np.argwhere(depth >= NEAR_MIDDLE * depth.max())
    x, y, z = places[rng.integers(len(places))].tolist()
    return largest, (x, y, z)


def _last_inside(inside: Array, place: Array, way: Array) -> Array:
    """How far one can go from a place of a slice (2,) in steps without leaving a part of it."""
    while True:
        further = place + way
        at = np.round(further).astype(int)
        if (at < 0).any() or (at >= inside.shape).any() or not inside[tuple(at)]:
            return place
        place = further


def _prompt(label: Volume, places: Sequence[tuple[float, float, float]], wanted: Array) -> Prompt:
    """A click on a voxel, or a line between two places, with what the truth says there."""
    points_mm = np.stack([(label.affine @ (*place, 1.0))[:3] for place in places])
    middle = tuple(np.round(np.mean(places, axis=0)).astype(int))
    return Prompt(along(points_mm, label.grid), bool(wanted[middle]))


class Mender(Protocol):
    """What an annotator's clicks are given to: a corrector, or a rival of it."""

    spec: TaskSpec

    @property
    def sees(self) -> Sequence[int]:
        """The indices of the modalities that it looks at."""

    def correct(self, case: Case, label: Volume, marked: Marked, model: Model | None) -> Corrected:
        """The label map after the newest prompts, on the same grid."""


@dataclass(frozen=True, eq=False)
class Annotator:
    """Clicks on cases until they are right, or so many times; or scribbles, as `draw` says."""

    corrector: Mender
    model: Model | None
    rounds: int = 10
    draw: Drawing = next_click

    def play_case(self, case: Case) -> list[Session]:
        """Click on every label of a labelled case, beginning with the model's answer, or with nothing without one.

        Raises:
            CaseError: its label or none of its images can be used.
        """
        spec = self.corrector.spec
        truth = read_case_label(case, spec)
        asked = next(name for name in case.grids if truth.grid.same_as(empty(case, name).grid))
        start = self.begin(case, asked)
        return [self.play(case, truth, start, value) for value in spec.label_values]

    def begin(self, case: Case, asked: str) -> Volume:
        """The label map that the annotator finds, on the grid of an image of the case."""
        start = empty(case, asked)
        if self.model:
            start = Volume(segment(self.model, case, asked, self.corrector.spec).label, start.affine)
        return start

    def play(self, case: Case, truth: Volume, start: Volume, value: int) -> Session:
        """Click on one label, beginning with a label map on the truth's grid."""
        rng = np.random.default_rng(0)
        label, clicks, seconds = start, list[Prompt](), list[float]()
        scores = [dice(label.voxels, truth.voxels, [value]) or 0.0]
        for _ in range(self.rounds):
            click = self.draw(label, truth.voxels, value, rng)
            if click:
                clicks.append(click)
                began = time.perf_counter()
                label = self.corrector.correct(case, label, Marked(value, clicks), self.model).label
                seconds.append(time.perf_counter() - began)
            scores.append(dice(label.voxels, truth.voxels, [value]) or 0.0)
        name = self.corrector.spec.label_values[value]
        return Session(case.id, name, tuple(scores), tuple(seconds))
