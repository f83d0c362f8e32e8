"""What of a case's images can be used: the one place that is asked by inference, training, evaluation and `check`.

An image that cannot be read, cannot be what it is said to be, or lies elsewhere than the others is left out with the
reason, and the case is one without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from maml_app.cases.case import Case
from maml_app.cases.spec import Modality, TaskSpec
from maml_app.errors import CaseError, ImageError, ObjectError
from maml_app.imaging.files import read_grid, read_image
from maml_app.imaging.plausible import implausible
from maml_app.imaging.volume import Grid, Volume

SHARED = 0.5  # of the smaller image must lie in the other: less is another examination, or a lost position


@dataclass(frozen=True, eq=False)
class Reading:
    """One modality of a case: its volume, or why there is none. `grid` is there wherever the header can be used."""

    modality: Modality
    volume: Volume | None
    grid: Grid | None = None
    problem: str = ""


def readings(case: Case, spec: TaskSpec) -> Iterator[Reading]:
    """The images of a case one after the other, the one that lends the frame first; absent modalities are left out.

    While the caller is busy with one, the next one is read.

    Raises:
        ArchiveError: an archive cannot be asked now: a case is never taken for one without what it holds.
    """
    kinds = {modality.name: modality for modality in spec.modalities}
    for name, reason in case.left_out.items():
        yield Reading(kinds[name], None, problem=reason)
    grids, broken = _grids(case, spec)
    for name, reason in broken.items():
        yield Reading(kinds[name], None, problem=reason)
    apart = _apart(grids)

    def read(name: str) -> Reading:
        if name in apart:
            return Reading(kinds[name], None, grids[name], apart[name])
        try:
            volume = read_image(case.images[name])
        except (CaseError, ObjectError) as error:
            return Reading(kinds[name], None, grids[name], str(error))
        problem = implausible(volume.voxels, kinds[name])
        return Reading(kinds[name], None if problem else volume, grids[name], problem)

    with ThreadPoolExecutor(1, thread_name_prefix="reading") as ahead:
        coming: Future[Reading] | None = None
        for name in grids:
            known, coming = coming, ahead.submit(read, name)  # one ahead and no more: each is as large as the image
            if known:
                yield known.result()
        if coming:
            yield coming.result()


def readable_frame(case: Case, spec: TaskSpec) -> str:
    """The modality that lends the case its frame, by the headers alone: the first whose place can be told.

    Raises:
        ImageError: there is none; the message has each reason.
    """
    in_place = grids_in_place(case, spec)
    if in_place:
        return next(iter(in_place))
    _, broken = _grids(case, spec)
    raise ImageError(no_image(case, {**case.left_out, **broken}))


def grids_in_place(case: Case, spec: TaskSpec) -> dict[str, Grid]:
    """The grids of the images that can be used, as far as the headers tell, by modality in the order of preference."""
    grids, _ = _grids(case, spec)
    apart = _apart(grids)
    return {name: grid for name, grid in grids.items() if name not in apart}


def images_elsewhere(case: Case, spec: TaskSpec) -> dict[str, str]:
    """Images that lie elsewhere than the others, by modality, and why they are not used."""
    return _apart(_grids(case, spec)[0])


def no_image(case: Case, left_out: dict[str, str]) -> str:
    """The message for a case of which no image can be used."""
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in left_out.items())
    return f"case {case.id}: expected at least one image that can be used, got none{reasons}"


def _grids(case: Case, spec: TaskSpec) -> tuple[dict[str, Grid], dict[str, str]]:
    """Grids by modality in the order of preference, and why others have none."""
    grids: dict[str, Grid] = {}
    broken: dict[str, str] = {}
    for name in spec.preference:
        if name in case.images:
            try:
                grids[name] = read_grid(case.images[name])
            except (CaseError, ObjectError) as error:
                broken[name] = str(error)
    return grids, broken


def _apart(grids: dict[str, Grid]) -> dict[str, str]:
    """Images that lie elsewhere than most others, and why; where two stand against each other, the later one."""
    shares = {(name, other): grids[name].shared(grids[other]) for name in grids for other in grids if name != other}
    anchor = max(
        grids, key=lambda name: sum(shares[name, other] >= SHARED for other in grids if other != name), default=""
    )
    return {
        name: f"only {shares[name, anchor]:.0%} of it lies where {anchor} does: are both from one examination?"
        if shares[name, anchor]
        else f"it does not overlap {anchor} in space: are both from one examination?"
        for name in grids
        if name != anchor and shares[name, anchor] < SHARED
    }
