"""A label map and a click in space become the label map after the click, on the grid of the image that is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.classifier import Classifier
from maml_app.correcting.marks import Crop, Scene
from maml_app.correcting.refinement import Refinement
from maml_app.correcting.view import View, view
from maml_app.errors import CaseError
from maml_app.imaging.files import read_grid
from maml_app.imaging.geometry import resample
from maml_app.imaging.preprocess import prepare
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.network.window import Opinions
from maml_app.versions.kept import Kept, Seen, content_key
from maml_app.versions.predict import Model, look


@dataclass(frozen=True, eq=False)
class Click:
    """A place in mm, RAS, that belongs to the structure, or does not."""

    place_mm: tuple[float, float, float]
    inside: bool


@dataclass(frozen=True, eq=False)
class Marked:
    """The label that is clicked, and its clicks; the last `newest` of them are to be applied, the others were."""

    value: int
    clicks: Sequence[Click]
    newest: int = 1

    @property
    def applied(self) -> Sequence[Click]:
        return self.clicks[len(self.clicks) - self.newest :]


@dataclass(frozen=True, eq=False)
class Corrected:
    """The label map after the clicks, and what the label gained and lost, ml."""

    label: Volume
    gained_ml: float
    lost_ml: float


class Finder(Protocol):
    """What finds what belongs to a label around a click: a refinement, or a classifier."""

    def half(self, spacing_mm: Sequence[float]) -> Array:
        """Half the sides (3,) of the crop around a click that it looks at, voxels."""

    def likely(self, scene: Scene, view: View) -> Array:
        """How likely each voxel belongs to the label, (X, Y, Z), in the part of the image that is in the crop."""


class Corrector:
    """Mends label maps of cases; with a model it looks through its eyes, without one at the images alone.

    A model's refinement tells what belongs to the label, where it has one, else a classifier of the case.
    What was seen of a case is kept: the first click costs an inference, the next ones do not.

    Args:
        sees: names of the modalities that clicks look at; all of them if there are none.
    """

    def __init__(self, spec: TaskSpec, sees: Sequence[str] = ()) -> None:
        self.spec = spec
        self.sees = [index for index, name in enumerate(spec.modality_names) if not sees or name in sees]
        self._bare = Kept()

    def correct(self, case: Case, label: Volume, marked: Marked, model: Model | None) -> Corrected:
        """The label map after the newest clicks; the ones before them are kept to.

        Args:
            label: on the grid of any image of the case; the answer is on it too. Only voxels within reach of a click
                that is applied change, and of other labels none.

        Raises:
            CaseError: a click lies outside of what can be seen of the case, or none of its images can be used.
        """
        seen = look(model, case, self.spec) if model else self._look(case)
        grid = seen.prepared.grid
        for click in marked.clicks:
            place = _index(grid, click)
            if (place < -0.5).any() or (place > np.array(grid.shape) - 0.5).any():
                raise CaseError(
                    f"case {case.id}: expected clicks within the images, got one at "
                    f"{', '.join(f'{axis:.0f}' for axis in click.place_mm)} mm (RAS)"
                )
        before = _onto(label.voxels == marked.value, label.grid, grid)
        after = before
        refiner = model.checkpoint.refiner if model else None
        finder = Refinement(refiner) if refiner else Classifier()
        for last in range(len(marked.clicks) - marked.newest, len(marked.clicks)):
            after = self._after(seen, after, marked.value, marked.clicks[: last + 1], finder)
        return _brought(label, marked, grid, before, after)

    def _look(self, case: Case) -> Seen:
        def see() -> Seen:
            prepared = prepare(case, self.spec)
            nothing = torch.zeros((self.spec.classes, *prepared.grid.shape))
            return Seen(prepared, Opinions(nothing, {}, torch.zeros(0)))

        return self._bare.of(content_key(case, list(case.images)), see)

    def _after(self, seen: Seen, mask: Array, value: int, clicks: Sequence[Click], finder: Finder) -> Array:
        """The mask on the network's grid after the newest click, worked out on a crop around it."""
        grid = seen.prepared.grid
        places = [(_index(grid, click), click.inside) for click in clicks]
        crop = Crop(places[-1][0], finder.half(grid.spacing_mm), mask.shape)
        scene = crop.scene(mask, places, grid.spacing_mm)
        result = mask.copy()
        part = view(seen, value, self.sees).cut(crop.box)
        result[crop.box] = scene.mended(finder.likely(scene, part) > 0.5)
        return result


def _index(grid: Grid, click: Click) -> Array:
    """The place of a click as voxel index (3,) of a grid, not rounded."""
    inverse = np.linalg.inv(grid.affine)
    index: Array = inverse[:3, :3] @ np.array(click.place_mm) + inverse[:3, 3]
    return index


def _onto(mask: Array, source: Grid, target: Grid) -> Array:
    values: Array = resample(torch.from_numpy(mask.astype(np.float32)), source, target).numpy()
    return values > 0.5


def _brought(label: Volume, marked: Marked, grid: Grid, before: Array, after: Array) -> Corrected:
    """What changed on the network's grid, changed on the label's: a clicked voxel is always as the click says."""
    inside = _onto(after, grid, label.grid)
    # the finer outline stays where nothing changed
    changed = inside != _onto(before, grid, label.grid)
    for click in marked.applied:
        place = np.round(_index(label.grid, click)).astype(int)
        if ((place >= 0) & (place < label.voxels.shape)).all():
            changed[tuple(place)], inside[tuple(place)] = True, click.inside
    gained = changed & inside & (label.voxels == 0)
    lost = changed & ~inside & (label.voxels == marked.value)
    voxels = label.voxels.copy()
    voxels[gained], voxels[lost] = marked.value, 0
    ml = label.grid.voxel_ml
    return Corrected(Volume(voxels, label.affine), round(float(gained.sum()) * ml, 4), round(float(lost.sum()) * ml, 4))


def empty(case: Case, asked: str) -> Volume:
    """A label map in which nothing is, on the grid of an image of the case."""
    grid = read_grid(case.grids[asked])
    return Volume(np.zeros(grid.shape, np.uint8), grid.affine)
