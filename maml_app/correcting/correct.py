"""A label map and a prompt in space become the label map after it, on the grid of the image that is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.classifier import Classifier
from maml_app.correcting.marks import Crop, Path, Scene, within
from maml_app.correcting.refinement import Refinement
from maml_app.correcting.view import View, view
from maml_app.errors import CaseError
from maml_app.imaging.files import read_grid
from maml_app.imaging.geometry import reached, resample
from maml_app.imaging.preprocess import prepare
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.network.window import Opinions
from maml_app.versions.kept import Kept, content_key
from maml_app.versions.predict import Model, look
from maml_app.versions.shelf import Seen


@dataclass(frozen=True, eq=False)
class Prompt:
    """Places in mm, RAS, that belong to the structure, or do not: the one of a click, or those along a scribble.

    Attributes:
        path_mm: (N, 3); of a scribble at least one in each voxel that it passes through, as of `along`.
    """

    path_mm: Array
    inside: bool

    @property
    def place(self) -> str:
        """Where it begins, in words."""
        return f"{', '.join(f'{axis:.0f}' for axis in self.path_mm[0])} mm (RAS)"


@dataclass(frozen=True, eq=False)
class Marked:
    """The label that is mended, and its prompts; the last `newest` of them are to be applied, the others were."""

    value: int
    prompts: Sequence[Prompt]
    newest: int = 1

    @property
    def applied(self) -> Sequence[Prompt]:
        return self.prompts[len(self.prompts) - self.newest :]


@dataclass(frozen=True, eq=False)
class Corrected:
    """The label map after the prompts, what the label gained and lost, ml, and who drew it where it is not ours."""

    label: Volume
    gained_ml: float
    lost_ml: float
    by: str = ""


class Finder(Protocol):
    """What finds what belongs to a label around a prompt: a refinement, or a classifier."""

    def half(self, spacing_mm: Sequence[float]) -> Array:
        """Half the sides (3,) of the crop around a place that it looks at, voxels."""

    def likely(self, scene: Scene, view: View) -> Array:
        """How likely each voxel belongs to the label, (X, Y, Z), in the part of the image that is in the crop."""


class Corrector:
    """Mends label maps of cases; with a model it looks through its eyes, without one at the images alone.

    A model's refinement tells what belongs to the label, where it has one, else a classifier of the case.
    What was seen of a case is kept: the first prompt costs an inference, the next ones do not.

    Args:
        sees: names of the modalities that prompts look at; all of them if there are none.
    """

    def __init__(self, spec: TaskSpec, sees: Sequence[str] = ()) -> None:
        self.spec = spec
        self.sees = [index for index, name in enumerate(spec.modality_names) if not sees or name in sees]
        self._bare = Kept()

    def correct(self, case: Case, label: Volume, marked: Marked, model: Model | None) -> Corrected:
        """The label map after the newest prompts; the ones before them are kept to.

        Args:
            label: on the grid of any image of the case; the answer is on it too. Only voxels within reach of a
                prompt that is applied change, and of other labels none.

        Raises:
            CaseError: a prompt lies outside of what is shown of the case, or none of its images can be used.
        """
        seen = look(model, case, self.spec) if model else self._look(case)
        grid = seen.prepared.grid
        paths = [(within(on(grid, prompt.path_mm), grid.shape), prompt.inside) for prompt in marked.prompts]
        for prompt, (places, _) in zip(marked.prompts, paths, strict=True):
            if not len(places):
                raise CaseError(
                    f"case {case.id}: expected clicks and scribbles where the images show something, got one at "
                    f"{prompt.place}"
                )
        before = _onto(label.voxels == marked.value, label.grid, grid)
        after = before
        refiner = model.checkpoint.refiner if model else None
        finder = Refinement(refiner) if refiner else Classifier()
        for last in range(len(paths) - marked.newest, len(paths)):
            after = self._after(seen, after, marked.value, paths[: last + 1], finder)
        return _brought(label, marked, grid, before, after)

    def _look(self, case: Case) -> Seen:
        def see() -> Seen:
            prepared = prepare(case, self.spec)
            nothing = torch.zeros((self.spec.classes, *prepared.grid.shape))
            return Seen(prepared, Opinions(nothing, {}, torch.zeros(0)))

        return self._bare.of(content_key(case, list(case.images)), see)

    def _after(self, seen: Seen, mask: Array, value: int, paths: Sequence[Path], finder: Finder) -> Array:
        """The mask on the network's grid after the newest prompt, worked out on a crop around it."""
        grid = seen.prepared.grid
        crop = Crop(paths[-1][0], finder.half(grid.spacing_mm), mask.shape)
        scene = crop.scene(mask, paths, grid.spacing_mm)
        result = mask.copy()
        part = view(seen, value, self.sees).cut(crop.box)
        result[crop.box] = scene.mended(finder.likely(scene, part) > 0.5)
        return result


def along(points_mm: Array, grid: Grid) -> Array:
    """Places (N, 3) along the line through points (P, 3), mm: one in each voxel of a grid that it passes through.

    They lie midway between the voxel's borders on the line; of a single point there is that point.
    """
    if len(points_mm) == 1:
        return points_mm
    index = on(grid, points_mm)
    found = []
    for start, way, first, last in zip(points_mm, np.diff(points_mm, axis=0), index, index[1:], strict=False):
        shares = [0.0, 1.0]  # of the way, where it leaves a voxel
        for low, high in zip(first, last, strict=True):
            borders = np.arange(np.ceil(min(low, high) - 0.5), max(low, high) - 0.5) + 0.5
            shares += ((borders - low) / (high - low)).tolist()
        shares.sort()
        middles = (np.array(shares[1:]) + shares[:-1]) / 2
        found.append(start + middles[:, None] * way)
    return np.concatenate(found)


def on(grid: Grid, points_mm: Array) -> Array:
    """Points (N, 3), mm, as voxel indices of a grid, not rounded."""
    inverse = np.linalg.inv(grid.affine)
    return np.asarray((inverse[:3, :3] @ points_mm[:, :, None])[..., 0] + inverse[:3, 3])


def _onto(mask: Array, source: Grid, target: Grid) -> Array:
    result = np.zeros(target.shape, dtype=bool)
    part = reached(torch.from_numpy(mask), source, target)
    if part:
        result[part.slices] = resample(torch.from_numpy(mask.astype(np.float32)), source, part.grid).numpy() > 0.5
    return result


def _brought(label: Volume, marked: Marked, grid: Grid, before: Array, after: Array) -> Corrected:
    """What changed on the network's grid, changed on the label's: a voxel of a prompt is always as it says."""
    inside, changed = np.zeros((2, *label.voxels.shape), dtype=bool)
    # the finer outline stays where nothing changed, and nothing is worked out there
    part = reached(torch.from_numpy(before != after), grid, label.grid)
    if part:
        inside[part.slices] = _onto(after, grid, part.grid)
        changed[part.slices] = inside[part.slices] != _onto(before, grid, part.grid)
    for prompt in marked.applied:
        places = within(np.round(on(label.grid, prompt.path_mm)).astype(int), label.voxels.shape)
        changed[tuple(places.T)], inside[tuple(places.T)] = True, prompt.inside
    return replaced(label, marked.value, inside, changed)


def replaced(label: Volume, value: int, inside: Array, changed: Array) -> Corrected:
    """One label as `inside` says, bool (X, Y, Z), where `changed` is true; other labels keep their voxels."""
    gained = changed & inside & (label.voxels == 0)
    lost = changed & ~inside & (label.voxels == value)
    voxels = label.voxels.copy()
    voxels[gained], voxels[lost] = value, 0
    ml = label.grid.voxel_ml
    return Corrected(Volume(voxels, label.affine), round(float(gained.sum()) * ml, 4), round(float(lost.sum()) * ml, 4))


def empty(case: Case, asked: str) -> Volume:
    """A label map in which nothing is, on the grid of an image of the case."""
    grid = read_grid(case.grids[asked])
    return Volume(np.zeros(grid.shape, np.uint8), grid.affine)
