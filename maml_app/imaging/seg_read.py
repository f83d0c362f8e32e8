"""Segments of a DICOM SEG on the grid of a series: each frame is placed by its own geometry (PS3.3 A.51)."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset

from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.lenient import lenient
from maml_app.imaging.planes import TO_RAS, Slice, Stack, group, planes
from maml_app.imaging.seg_info import MODEL_NAME, segment_values
from maml_app.imaging.volume import Array, Grid

# a frame this far from a voxel of the series is on another grid; along the slices, whose places may be rounded, more
OFF_GRID_VOX = np.array([0.1, 0.1, 0.3])


def read_seg(seg: Dataset, order: Stack, spec: TaskSpec, frame_of_reference: str) -> Array:
    """The label map of a SEG on the whole grid of a series, uint8 (X, Y, Z), with the task's values.

    Args:
        seg: BINARY, FRACTIONAL (a voxel counts from one half on) or LABELMAP, pixels included.
        order: the slices of the series it was drawn on.
        frame_of_reference: the FrameOfReferenceUID of that series.

    Raises:
        LabelError: another frame of reference, frames that do not lie on the grid of the series, segments that are no
            labels of the task or that overlap, pixels that cannot be decoded, or a segment of other software that was
            drawn on every other slice.
    """
    where = f"SEG {seg.get('SOPInstanceUID', '(no UID)')}"
    own_frame = str(seg.get("FrameOfReferenceUID", ""))
    if own_frame != frame_of_reference:
        raise LabelError(f"{where}: expected FrameOfReferenceUID {frame_of_reference}, got {own_frame or 'none'}")
    values = segment_values(seg, spec)
    label = np.zeros(order.grid.shape, np.uint8)
    for number, mask in read_segments(seg, order.grid, values).items():
        if seg.get("ManufacturerModelName") != MODEL_NAME:  # ours was drawn on this very series
            gaps(mask, f"{where}: segment {spec.label_values[values[number]]!r}")
        clash = mask & (label != 0)
        if clash.any():
            first, second = spec.label_values[int(label[clash][0])], spec.label_values[values[number]]
            raise LabelError(
                f"{where}: expected segments that do not overlap, got {int(clash.sum())} voxels that are both {first} "
                f"and {second}; a label map holds one label a voxel"
            )
        label[mask] = values[number]
    return label


def gaps(inside: Array, where: str) -> tuple[str, ...]:
    """What is to be said of slices without a region (X, Y, Z) between slices with it.

    Raises:
        LabelError: they are so many that it was drawn on every other slice, or on a thicker series.
    """
    used = np.flatnonzero(inside.any(axis=(0, 1)))
    pairs = list(pairwise(used.tolist()))
    # two findings, one above the other, need not lie over each other
    left = [
        (first, second)
        for first, second in pairs
        if second - first > 1 and (inside[:, :, first] & inside[:, :, second]).any()
    ]
    if not left:
        return ()
    steps = [second - first for first, second in left]
    # an even distance, as far as rounding goes; findings one above the other have none
    even = sum(abs(step - sorted(steps)[len(steps) // 2]) <= 1 for step in steps)
    if len(left) > 1 and 2 * len(left) >= len(pairs) and 4 * even >= 3 * len(left):
        slices = ", ".join(str(place + 1) for place in used[:8]) + ("…" if len(used) > 8 else "")
        raise LabelError(
            f"{where}: expected it on every slice, got it on slices {slices} of {inside.shape[2]}: fill in the slices "
            "between, in the program that drew it"
        )
    lacking = ", ".join(str(place + 1) for first, second in left for place in range(first + 1, second))
    return (f"{where}: nothing on slice {lacking}, though there is above and below",)


def read_segments(seg: Dataset, grid: Grid, numbers: Collection[int]) -> dict[int, Array]:
    """The segments of these numbers as masks (X, Y, Z) on a grid. Other segments are not looked at.

    Raises:
        LabelError: frames that do not lie on the grid, or pixels that cannot be decoded.
    """
    where = f"SEG {seg.get('SOPInstanceUID', '(no UID)')}"
    kind = str(seg.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise LabelError(f"{where}: expected SegmentationType BINARY, FRACTIONAL or LABELMAP, got {kind or 'none'}")
    try:
        with lenient():
            pixels = np.asarray(seg.pixel_array).reshape(-1, int(seg.Rows), int(seg.Columns))
            frames = planes(seg)
        if len(frames) != len(pixels):
            raise ValueError(f"{len(frames)} frames and pixels of {len(pixels)}")
    except Exception as error:  # decoders raise what they like
        raise LabelError(f"{where}: expected frames that can be read, got: {error}") from None
    masks = {number: np.zeros(grid.shape, bool) for number in numbers}
    most = float(seg.get("MaximumFractionalValue") or 255) if kind == "FRACTIONAL" else 1.0
    for place, frame in enumerate(frames):
        if kind == "LABELMAP":
            here = {number: pixels[place] == number for number in numbers}
        else:
            number = _segment_of(seg, place)
            here = {number: 2.0 * pixels[place] >= most} if number in masks else {}
        for number, plane in here.items():
            if plane.any():
                _add(masks[number], plane, frame, grid, where)
    return masks


def _segment_of(seg: Dataset, frame: int) -> int:
    found = group(seg, frame, "SegmentIdentificationSequence")
    if found is None:
        raise LabelError(f"SEG {seg.get('SOPInstanceUID')}: frame {frame + 1} does not say which segment it is of")
    return int(found.ReferencedSegmentNumber)


def _place(frame: Slice, grid: Grid, where: str) -> tuple[Array, Array]:
    """The voxel of the grid where a frame's first pixel lies, and the voxel steps (2, 3) along its columns and rows."""
    to_vox = np.linalg.inv(grid.affine) @ TO_RAS
    corner = to_vox[:3, :3] @ frame.position_mm + to_vox[:3, 3]
    axes = (frame.axes * np.array(frame.spacing_mm)[:, None]) @ to_vox[:3, :3].T
    whole = np.rint(corner), np.rint(axes)
    # over the longest side a small error of a step adds up
    reach = max(grid.shape)
    if (np.abs(corner - whole[0]) > OFF_GRID_VOX).any() or np.abs(axes - whole[1]).max() * reach > 1:
        raise LabelError(
            f"{where}: expected frames on the grid of its series ({grid}), got one at voxel {corner.round(2).tolist()} "
            f"with steps {axes.round(3).tolist()}"
        )
    if np.abs(whole[1]).sum() != 2:
        raise LabelError(f"{where}: expected frames with the spacing of the series, got steps {axes.round(3).tolist()}")
    return whole[0].astype(int), whole[1].astype(int)


def _add(mask: Array, plane: Array, frame: Slice, grid: Grid, where: str) -> None:
    corner, axes = _place(frame, grid, where)
    rows, columns = np.nonzero(plane)
    index = corner + columns[:, None] * axes[0] + rows[:, None] * axes[1]
    if (index < 0).any() or (index >= np.array(mask.shape)).any():
        raise LabelError(f"{where}: expected segments inside the extent of the series, got voxels outside it")
    mask[tuple(index.T)] = True
