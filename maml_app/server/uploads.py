"""Files that clients send: what they claim to hold is looked at before anything of it is decoded."""

from __future__ import annotations

import math
from pathlib import Path

from fastapi import HTTPException

from maml_app.cases.case import Case
from maml_app.errors import LabelError, MamlError
from maml_app.imaging.claims import claimed_shape
from maml_app.imaging.files import read_grid
from maml_app.machine import free_memory_gb

BYTES_A_VOXEL = 24  # while an image is read: as stored, scaled to float64, and float32
MEMORY_SHARE = 0.5


def check_on_grid(file: Path, case: Case, asked: str) -> None:
    """Whether a label map can be one of the case, by its header alone.

    Raises:
        ImageError: the header is damaged or points out of the file.
        LabelError: its shape is none of the case's.
    """
    shape = claimed_shape(file)
    listed, unreadable = [], []
    for name in sorted(case.grids, key=lambda name: name != asked):
        try:
            grid = read_grid(case.grids[name])
        except MamlError as error:
            unreadable.append(f"; a label cannot lie on {name}: {error}")
            continue
        if grid.shape == shape:
            return
        listed.append(f"{name} {grid}")
    raise LabelError(
        f"case {case.id}: expected a label on the grid of one of its images ({'; '.join(listed)}), got one of "
        f"{' x '.join(map(str, shape))} voxels{''.join(unreadable)}"
    )


def check_size(file: Path, most_mvox: float) -> None:
    """Whether an image that is to be segmented is small enough, by its header alone.

    Raises:
        ImageError: the header is damaged or points out of the file.
        HTTPException: 413 it holds more voxels than are allowed, or than there is memory for.
    """
    voxels = math.prod(claimed_shape(file))
    if voxels > most_mvox * 1e6:
        raise HTTPException(413, f"expected at most {most_mvox:g} million voxels, got {voxels / 1e6:.0f} million")
    free_gb = free_memory_gb()
    if voxels * BYTES_A_VOXEL > MEMORY_SHARE * free_gb * 1e9:
        raise HTTPException(413, f"{voxels / 1e6:.0f} million voxels do not fit the {free_gb:.1f} GB that are free")
