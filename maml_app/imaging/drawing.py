"""What other software drew, whatever the kind of object: named regions, each of which is a mask on a grid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydicom.dataset import Dataset

from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.lenient import lenient
from maml_app.imaging.planes import groups
from maml_app.imaging.seg_info import label_of, segment_name, segment_type, written
from maml_app.imaging.seg_read import gaps, read_segments
from maml_app.imaging.volume import Array, Grid


@dataclass(frozen=True)
class Origin:
    """Where an object comes from and what it was drawn on, as far as it says so.

    `series` are the SeriesInstanceUIDs that it refers to, `images` SOPInstanceUIDs, `frame` the FrameOfReferenceUID.
    """

    kind: str
    instance: str
    written: str  # date and time, sortable; '' if it does not say
    frame: str = ""
    series: tuple[str, ...] = ()
    images: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return f"{self.kind} {self.instance}"


class Drawing(Protocol):
    """An object with regions that someone drew."""

    @property
    def origin(self) -> Origin: ...

    @property
    def regions(self) -> Sequence[str]:
        """Names of its regions, each once."""

    def value_of(self, region: str, spec: TaskSpec) -> int | None:
        """The task's value for a region by what the object says of it; None if it is no label."""

    def mask(self, region: str, grid: Grid) -> tuple[Array, tuple[str, ...]]:
        """A region (X, Y, Z) on a grid, and what a person should know of it. Raises LabelError."""


class DrawnSegments:
    """A SEG by any software, pixels included; two segments of one name and type are one region."""

    def __init__(self, seg: Dataset) -> None:
        with lenient():
            refers = seg.get("ReferencedSeriesSequence") or []
            series = tuple(
                str(reference.get("SeriesInstanceUID", ""))
                for reference in refers
                if reference.get("SeriesInstanceUID")
            )
            frame = str(seg.get("FrameOfReferenceUID", "") or "")
            made = written(seg)
        self.seg = seg
        self.origin = Origin("SEG", str(seg.SOPInstanceUID), made, frame, series, frozenset(_sources(seg)))
        segments = list(seg.get("SegmentSequence") or [])
        types: dict[str, set[str]] = {}
        for segment in segments:
            int(segment.SegmentNumber)  # without one it cannot be found again
            types.setdefault(segment_name(segment), set()).add(segment_type(segment))
        self._segments: dict[str, list[Dataset]] = {}
        for segment in segments:
            name = segment_name(segment)
            region = name if len(types[name]) == 1 else f"{name} ({segment_type(segment)})"
            self._segments.setdefault(region, []).append(segment)

    @property
    def regions(self) -> Sequence[str]:
        return list(self._segments)

    def value_of(self, region: str, spec: TaskSpec) -> int | None:
        return label_of(self._segments[region][0], spec)

    def mask(self, region: str, grid: Grid) -> tuple[Array, tuple[str, ...]]:
        numbers = [int(segment.SegmentNumber) for segment in self._segments[region]]
        inside = np.logical_or.reduce(list(read_segments(self.seg, grid, numbers).values()))
        return inside, gaps(inside, f"{self.origin.name}: region {region!r}")


def _sources(seg: Dataset) -> set[str]:
    """SOPInstanceUIDs of the images that frames were derived from (PS3.3 C.7.6.16.2.6)."""
    found = {str(reference.get("ReferencedSOPInstanceUID", "")) for reference in seg.get("SourceImageSequence") or []}
    for frame in range(len(seg.get("PerFrameFunctionalGroupsSequence") or [])):
        for group in groups(seg, frame):
            for derivation in group.get("DerivationImageSequence") or []:
                for image in derivation.get("SourceImageSequence") or []:
                    found.add(str(image.get("ReferencedSOPInstanceUID", "")))
    return found - {""}


def named(region: str, names: Mapping[str, str]) -> str:
    """The label that a region is said to be; `*` in a name stands for anything, all else for itself, in any case."""
    for pattern, label in names.items():
        literal = ".*".join(re.escape(part) for part in pattern.strip().casefold().split("*"))
        if re.fullmatch(literal, region.strip().casefold(), re.DOTALL):
            return label
    return ""


def wanted(drawing: Drawing, spec: TaskSpec, names: Mapping[str, str]) -> dict[str, int]:
    """Regions of a drawing that are labels of the task -> mask value; by `names` first, then by what it says itself."""
    found = {}
    for region in drawing.regions:
        label = named(region, names)
        value = spec.value_of(label) if label else drawing.value_of(region, spec)
        if value is not None:
            found[region] = value
    return found


@dataclass(frozen=True)
class Piece:
    """A region of a drawing that is a label."""

    drawing: Drawing
    region: str
    value: int

    @property
    def name(self) -> str:
        return f"{self.region!r} of {self.drawing.origin.name}"


def newest(pieces: Sequence[Piece]) -> tuple[list[Piece], list[str]]:
    """Of regions of one name in several objects the newest, and what was passed over.

    Raises:
        LabelError: the newest cannot be told; the message names both.
    """
    kept: list[Piece] = []
    notes: list[str] = []
    outdated: set[str] = set()
    for region in dict.fromkeys(piece.region.strip().casefold() for piece in pieces):
        same = sorted(
            (piece for piece in pieces if piece.region.strip().casefold() == region),
            key=lambda piece: piece.drawing.origin.written,
        )
        *older, last = same
        origins = {piece.drawing.origin.instance for piece in same}
        if older and len(origins) > 1 and older[-1].drawing.origin.written == last.drawing.origin.written:
            when = last.drawing.origin.written or "no date"
            raise LabelError(
                f"expected one region of a name, or a newest, got {older[-1].name} and {last.name}, both of {when}; "
                "leave one of them away"
            )
        kept += [piece for piece in same if piece.drawing.origin.instance == last.drawing.origin.instance]
        passed = [piece for piece in older if piece not in kept]
        notes += [f"{piece.name} is older and not taken" for piece in passed]
        outdated |= {piece.drawing.origin.instance for piece in passed}
    # whoever drew the newer object may have left a region away on purpose
    notes += [
        f"{piece.name} is taken from an object that others replace in part"
        for piece in kept
        if piece.drawing.origin.instance in outdated
    ]
    return kept, notes


def label_map(pieces: Sequence[Piece], grid: Grid, spec: TaskSpec) -> tuple[Array, list[str]]:
    """The label map (X, Y, Z), uint8, of regions; what belongs to one label is united.

    Where labels overlap, the one that the task lists later wins, as a tumour in its organ.

    Raises:
        LabelError: a region cannot be drawn on the grid, or no voxel lies in any of them.
    """
    label = np.zeros(grid.shape, np.uint8)
    notes: list[str] = []
    for value in sorted({piece.value for piece in pieces}):
        inside = np.zeros(grid.shape, bool)
        for piece in (piece for piece in pieces if piece.value == value):
            mask, said = piece.drawing.mask(piece.region, grid)
            notes += said
            if not mask.any():
                notes.append(f"{piece.name} holds no voxel")
            inside |= mask
        both = int(((label != 0) & inside).sum())
        if both:
            notes.append(f"{both} voxels are of two labels: {spec.label_values[value]} wins")
        label[inside] = value
    if not label.any():
        raise LabelError(f"expected regions that hold voxels of the series, got none: {'; '.join(notes)}")
    return label, notes
