"""Label maps: what their values mean, and whether one can be trained on and scored against."""

from __future__ import annotations

import numpy as np

from maml_app.cases.case import Case, LabelRef
from maml_app.cases.spec import OWN, TaskSpec
from maml_app.cases.values import returnable, stated_convention, values_of
from maml_app.errors import GridError, LabelError, MamlError
from maml_app.imaging.files import read_grid, read_image, read_label
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.reading import grids_in_place, images_elsewhere
from maml_app.imaging.volume import Array, Grid, Volume

LARGE = 0.08  # of all voxels: a label beyond this is compared with what the MR images show
ANATOMY = 0.8  # of an MR image's non-zero voxels: a label of so much is of the brain or the body, not of a lesion


def volumes_ml(label: Volume, spec: TaskSpec) -> dict[str, float]:
    """Volume of each label that is there, ml."""
    counts = np.bincount(label.voxels.ravel(order="K"))
    return {
        spec.label_values[value]: round(float(count) * label.grid.voxel_ml, 4)
        for value, count in enumerate(counts)
        if value and count
    }


def to_task_values(label: Volume, spec: TaskSpec, case_id: str) -> Volume:
    """Map the values of a label map that someone sends for a case to the task's.

    They are the task's own; others can only be of a convention that its studies are in.

    Raises:
        LabelError: values that belong to none, or to several that mean different things.
    """
    found = {int(value) for value in np.unique(label.voxels)} - {0}
    if found <= set(spec.label_values):
        return label
    stated = stated_convention(spec, case_id)
    numberings = {stated: values_of(spec, stated)} if stated else spec.guessable
    fitting = {
        tuple(values[value] for value in sorted(found)) for values in numberings.values() if found <= set(values)
    }
    if len(fitting) == 1:
        return _mapped(label, dict(zip(sorted(found), fitting.pop(), strict=True)))
    known = [f"{spec.label_values}", *(f"{name}: {values}" for name, values in numberings.items())]
    several = ", which several of them know and mean different labels by" if fitting else ""
    raise LabelError(
        f"case {case_id}, label sent: expected label values of {' or '.join(known)}, got {sorted(found)}{several}"
    )


def _mapped(label: Volume, values: dict[int, int]) -> Volume:
    table = np.zeros(256, dtype=np.uint8)
    table[list(values)] = list(values.values())
    return Volume(table[label.voxels], label.affine)


def check_convention(spec: TaskSpec, convention: str, comes_back: bool = False) -> None:
    """Nothing, if the task can be written in this convention.

    Args:
        comes_back: what is written may be sent back as a label, and must not mean something else then.

    Raises:
        LabelError: it cannot.
    """
    known = [OWN, *(returnable(spec) if comes_back else spec.writable)]
    if convention not in known:
        raise LabelError(f"expected a label convention of {known}, got {convention!r}")


def from_task_values(label: Array, spec: TaskSpec, convention: str) -> Array:
    """Map the task's values to those of a convention named in task.yaml, for archives that expect them.

    Raises:
        LabelError: the task has no such convention.
    """
    check_convention(spec, convention)
    if convention == OWN:
        return label
    table = np.zeros(256, dtype=np.uint8)
    for theirs, ours in spec.conventions[convention].values.items():
        table[ours] = theirs
    return np.asarray(table[label])


def read_case_label(case: Case, spec: TaskSpec) -> Volume:
    """The case's final label map with the task's values, on its own grid, if it can be trained on and scored against.

    Raises:
        LabelError: the case has none, its values cannot be understood, or it is no label of this case's images.
        CaseError: the case as a whole has a problem.
    """
    ref = stated_label(case)
    label = read_stored_label(ref, spec)
    _check_place(case, str(ref.path), label, spec)
    return label


def read_stored_label(ref: LabelRef, spec: TaskSpec) -> Volume:
    """A label of a case with the task's values, as it is: nobody asks whether it fits the images.

    Raises:
        LabelError: its values cannot be understood.
    """
    label = read_label(ref.local())
    found = sorted({int(value) for value in np.unique(label.voxels)} - {0})
    if ref.meaning is None:
        if not set(found) <= set(spec.label_values):
            raise LabelError(f"{ref.path}: expected label values of {spec.label_values}, got {found}")
        return label
    meaning = ref.meaning()
    meaning.check([0, *found], str(ref.path))
    return _mapped(label, dict(meaning.values))


def stated_label(case: Case) -> LabelRef:
    """The case's final label, if nothing speaks against it before it is read.

    Raises:
        LabelError: there is none, or the case or the label has a problem.
    """
    if case.label is None:
        raise LabelError(f"case {case.id}: expected a final label, got none")
    problems = [*case.problems, *([case.label.problem] if case.label.problem else [])]
    if problems:
        raise LabelError(f"case {case.id}: {'; '.join(problems)}")
    return case.label


def _check_place(case: Case, where: str, label: Volume, spec: TaskSpec) -> None:
    """Refuse a label that lies on no grid of the case's images, or covers all that one of them shows."""
    grids = grids_in_place(case, spec)
    on = [name for name, grid in grids.items() if _is_on(label.grid, grid)]
    if not on:
        grids |= _others(case)
        on = [name for name, grid in grids.items() if _is_on(label.grid, grid)]
    if grids and not on:
        for name, why in images_elsewhere(case, spec).items():
            if _is_on(label.grid, read_grid(case.images[name])):
                raise LabelError(f"{where}: it is drawn on {name}, which cannot be used: {why}")
        raise LabelError(f"{where}: {off_grid(label.grid, grids)}")
    share = np.count_nonzero(label.voxels) / label.voxels.size
    kinds = {modality.name: modality.kind for modality in spec.modalities}
    for name in on if share > LARGE else []:
        if kinds.get(name) != "MR":
            continue
        try:
            shown = read_image(case.images[name])
        except MamlError:
            continue
        body = shown.voxels != 0
        inside = resample_label((label.voxels > 0).astype(np.uint8), label.grid, shown.grid) > 0
        covered = np.count_nonzero(inside & body) / max(1, np.count_nonzero(body))
        if body.mean() < 0.95 and covered > ANATOMY:
            raise LabelError(
                f"{where}: it covers {covered:.0%} of all that {name} shows: is it a mask of the brain, or of tissues, "
                "and not a label?"
            )


def _is_on(label: Grid, image: Grid) -> bool:
    return image.same_as(label) or image.same_voxels_as(label)


def _others(case: Case) -> dict[str, Grid]:
    """The grids of the series of a case that are no modality of the task; what cannot be read is left out."""
    grids = {}
    for name, ref in case.others.items():
        try:
            grids[name] = read_grid(ref)
        except MamlError:
            continue
    return grids


def off_grid(grid: Grid, grids: dict[str, Grid]) -> str:
    """Why a label lies on none of these grids, with the places of both."""
    alike = {name: known for name, known in grids.items() if known.shape == grid.shape}
    if alike:
        name, nearest = min(alike.items(), key=lambda item: item[1].apart_mm(grid))
        return (
            f"expected the label where {name} lies, {nearest.place}, got as many voxels elsewhere, {grid.place}: "
            f"corners up to {nearest.apart_mm(grid):.1f} mm apart; write the label with the image's affine"
        )
    listed = "; ".join(f"{name} {known.place}" for name, known in grids.items())
    return f"expected a label on the grid of one of its images ({listed}), got {grid.place}"


def prepare_label(case: Case, spec: TaskSpec, grid: Grid) -> Array:
    """The final label map on the network's grid, uint8 (X, Y, Z). Raises as `read_case_label`."""
    label = read_case_label(case, spec)
    if not label.grid.overlaps(grid):
        raise GridError(f"case {case.id}: expected the label to overlap the images in space, got a label elsewhere")
    return resample_label(label.voxels, label.grid, grid)
