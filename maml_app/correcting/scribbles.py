"""A labelmap with scribbles in it, as 3D Slicer sends it, taken apart: the label that it hides, and the prompts.

3D Slicer exports all segments into one labelmap, scribbles last: it does not tell what the label is beneath them. It
sends all scribbles again each time. So a scribble counts as answered where the label beside it, in the plane it was
drawn in, is as it says; and an answer leaves no scribble without such a neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from maml_app.cases.case import Case
from maml_app.cases.spec import TaskSpec
from maml_app.correcting.correct import Marked, Prompt
from maml_app.correcting.marks import Box
from maml_app.errors import LabelError
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.labelling.incoming import Segment, checked_label

SAYS = {"background_scribbles": False, "foreground_scribbles": True}  # names of segments, in the order of answering
MOST = 200  # scribbles


@dataclass(frozen=True, eq=False)
class Scribble:
    """A connected scribble in a labelmap.

    Attributes:
        box: the part of the image around it, with a margin of a voxel.
        voxels: the scribble in the box, bool (X, Y, Z); `covered`: all scribbles there.
        plane: the neighbourhood of a voxel in the plane of the scribble, to dilate with.
    """

    box: Box
    voxels: Array
    covered: Array
    plane: Array
    inside: bool

    def alone(self, label: Array, value: int) -> Array:
        """What would have to be as it says: the free voxels beside those of it that have no neighbour of their kind.

        Args:
            label: label map (X, Y, Z) of the whole image.

        Returns:
            Bool (X, Y, Z) in the box; nothing of other labels is in it.
        """
        there = label[self.box]
        free = ~self.covered & np.isin(there, (0, value))
        right = free & ((there == value) == self.inside)
        without = self.voxels & ~ndimage.binary_dilation(right, self.plane)
        return np.asarray(free & ndimage.binary_dilation(without, self.plane))

    def prompt(self, grid: Grid) -> Prompt:
        """The same as places in space."""
        index = np.argwhere(self.voxels) + [side.start for side in self.box]
        return Prompt(index @ grid.affine[:3, :3].T + grid.affine[:3, 3], self.inside)


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a client has drawn: the label before its prompts, None for the model's own answer, and the prompts.

    Attributes:
        image: on whose grid all of it lies, a key of `Case.grids`.
    """

    image: str
    label: Volume | None
    marked: Marked
    scribbles: Sequence[Scribble] = ()

    def settled(self, label: Volume) -> Volume:
        """A label after its correction, in which every scribble can be seen to be answered."""
        voxels = label.voxels.copy()
        for scribble in self.scribbles:
            alone = scribble.alone(voxels, self.marked.value)
            voxels[scribble.box][alone] = self.marked.value if scribble.inside else 0
        return Volume(voxels, label.affine)


def read_scribbles(
    case: Case, labelmap: Volume, spec: TaskSpec, segments: Sequence[Segment], asked: tuple[str, int]
) -> Drawn:
    """Take a labelmap apart.

    Args:
        segments: what each of its values is: a label of the task, or scribbles.
        asked: the image that is preferred where several share the labelmap's grid, and the value of the label to mend.

    Raises:
        LabelError: values without a name, segments that are no labels of the task, no scribbles or too many, or a grid
            that is none of the case's.
    """
    names = {segment.value: segment.name for segment in segments}
    unnamed = sorted(set(np.unique(labelmap.voxels).tolist()) - {0, *names})
    if unnamed:
        raise LabelError(f"expected label_info to name every value of the labelmap, got none for {unnamed}")
    layers = {says: np.isin(labelmap.voxels, _values(names, name)) for name, says in SAYS.items()}
    covered = layers[True] | layers[False]
    others = [segment for segment in segments if segment.name not in SAYS]
    label, image = checked_label(
        case, Volume(np.where(covered, 0, labelmap.voxels), labelmap.affine), spec, others, asked[0]
    )
    if not covered.any():
        raise LabelError(f"expected scribbles in the labelmap, as segments named {list(SAYS)}, got none")
    scribbles = [one for says, layer in layers.items() for one in _apart(layer, covered, says, label.grid)]
    if len(scribbles) > MOST:
        raise LabelError(f"expected at most {MOST} scribbles that do not touch each other, got {len(scribbles)}")
    value = asked[1]
    answered = [scribble for scribble in scribbles if not scribble.alone(label.voxels, value).any()]
    new = [scribble for scribble in scribbles if scribble not in answered]
    voxels = _beneath(label, covered)
    for scribble in answered:
        part = voxels[scribble.box]
        part[scribble.voxels & np.isin(part, (0, value))] = value if scribble.inside else 0
    prompts = [scribble.prompt(label.grid) for scribble in (*answered, *new)]
    return Drawn(image, Volume(voxels, label.affine), Marked(value, prompts, len(new)), scribbles)


def _values(names: dict[int, str], wanted: str) -> list[int]:
    return [value for value, name in names.items() if name == wanted]


def _apart(layer: Array, covered: Array, says: bool, grid: Grid) -> Iterator[Scribble]:
    """The connected scribbles of one kind, by faces, edges and corners."""
    parts, _ = ndimage.label(layer, np.ones((3, 3, 3)))
    for number, tight in enumerate(ndimage.find_objects(parts), start=1):
        x, y, z = (slice(max(side.start - 1, 0), side.stop + 1) for side in tight)
        flat = [axis for axis, side in enumerate(tight) if side.stop - side.start == 1]
        across = max(flat, key=lambda axis: (grid.spacing_mm[axis], axis), default=None)  # slices are thick
        plane = np.ones([1 if axis == across else 3 for axis in range(3)])
        yield Scribble((x, y, z), parts[x, y, z] == number, covered[x, y, z], plane, says)


def _beneath(label: Volume, covered: Array) -> Array:
    """A label map (X, Y, Z) with the nearest value where scribbles cover it."""
    places = np.argwhere(covered)
    x, y, z = (slice(max(low - 1, 0), high + 2) for low, high in np.array([places.min(axis=0), places.max(axis=0)]).T)
    voxels = label.voxels.copy()
    if not covered[x, y, z].all():
        spacing_mm = label.grid.spacing_mm
        nearest = ndimage.distance_transform_edt(
            covered[x, y, z], sampling=spacing_mm, return_distances=False, return_indices=True
        )
        voxels[x, y, z] = voxels[x, y, z][tuple(nearest)]
    return voxels
