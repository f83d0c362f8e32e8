"""Which images of a series belong together: they are looked at one by one.

A series can hold a scout, a screenshot, several echoes, b-values, time points or acquisitions, and images that were
sent or acquired twice. What cannot be part of a volume is left out and told; what is a volume of its own becomes a part
of its own, named by the attribute that tells it from the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import numpy as np
from pydicom.dataset import Dataset

from maml_app.errors import ImageError
from maml_app.imaging.planes import Slice, Stack, attribute, crowded, places_mm, planes, span

ALIKE = 1e-3  # orientations whose cosines agree this far are one
# what tells volumes apart that lie at the same places, in the order in which it is asked; multi-frame images have
# names of their own for some, which go first (PS3.3 C.7.6.16 and C.8.13.5)
TELLS: dict[str, tuple[str, ...]] = {
    "EchoTime": ("EffectiveEchoTime", "EchoTime"),
    "DiffusionBValue": ("DiffusionBValue",),
    "TemporalPosition": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    "InversionTime": ("InversionTimes", "InversionTime"),
    "FlipAngle": ("FlipAngle",),
    "KVP": ("KVP",),
    "ConvolutionKernel": ("ConvolutionKernel",),
    "SliceThickness": ("SliceThickness",),
    "AcquisitionNumber": ("FrameAcquisitionNumber", "AcquisitionNumber"),
    "ContrastBolusAgent": ("ContrastBolusAgent",),
    "ImageType": ("FrameType", "ImageType"),
    "ComplexImageComponent": ("ComplexImageComponent",),
    "StackID": ("StackID",),
    "TriggerTime": ("TriggerTime", "NominalPercentageOfCardiacPhase"),
    "FrameReferenceTime": ("FrameReferenceTime",),
    "AcquisitionTime": ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
    "DiffusionGradientOrientation": ("DiffusionGradientOrientation",),
    "ContentTime": ("ContentTime",),
}
# these tell volumes apart also where their slices lie between each other
INTERLACED = (
    *("EchoTime", "DiffusionBValue", "TemporalPosition", "InversionTime", "KVP", "ConvolutionKernel"),
    *("AcquisitionNumber", "ContrastBolusAgent", "StackID", "AcquisitionTime"),
)


@dataclass(frozen=True, eq=False)
class Part:
    """One volume's slices in a series, in no order.

    `tells` are the attributes and values that tell it from the other parts, none where the series is one volume.
    `repeats` are pairs of slices at one place that nothing tells apart, the first is among `slices`.
    """

    slices: tuple[Slice, ...]
    tells: tuple[tuple[str, str], ...] = ()
    repeats: tuple[tuple[Slice, Slice], ...] = ()
    problem: str = ""  # why it is no volume, found before its slices were put in order

    @property
    def key(self) -> str:
        """A name for it that stays when other images come: `EchoTime:12`; '' where the series is one volume."""
        return "+".join(f"{name}:{value}" for name, value in self.tells)

    @property
    def name(self) -> str:
        return f"{', '.join(f'{name} {value}' for name, value in self.tells)} ({len(self.slices)} images)"

    def stack(self, notes: Sequence[str] = ()) -> Stack:
        """The slices in order. Raises ImageError: as `span`, or `problem`; the message has the notes."""
        try:
            if self.problem:
                raise ImageError(self.problem)
            slices, grid = span(self.slices)
        except ImageError as error:
            twice = [
                f"two images at one place ({first.instance} and {second.instance})"
                for first, second in self.repeats[:1]
            ]
            raise ImageError("; ".join([str(error), *([] if self.problem else twice), *notes])) from None
        return Stack(slices, grid, self.repeats, tuple(notes))


@dataclass(frozen=True, eq=False)
class Sorted:
    """The volumes in a series, largest first, and what was left out, in words."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> list[int]:
        """Which images are of any part."""
        return sorted({slice_.image for part in self.parts for slice_ in part.slices})

    def part(self, key: str = "") -> Part:
        """The part of that key, or the only one.

        Raises:
            ImageError: there are several, which are named, or none.
        """
        for part in self.parts:
            if part.key == key or (not key and len(self.parts) == 1):
                return part
        names = "; ".join(part.name for part in self.parts)
        asked = f" {key!r}" if key else ""
        raise ImageError(
            f"expected one volume{asked}, got {len(self.parts)} in one series: {names}; say by hand which it is, as "
            f"SERIES#{self.parts[0].key}"
        )


def sort_out(images: Sequence[Dataset]) -> Sorted:
    """Tell the volumes of a series apart. Headers are enough; an image that is there twice (one UID) counts once.

    Raises:
        ImageError: no image of the series says where it lies.
    """
    unique = {str(image.get("SOPInstanceUID")): number for number, image in reversed(list(enumerate(images)))}
    kept = sorted(unique.values())
    notes: list[str] = []
    stacked = [number for number in kept if not _is_localizer(images[number])]
    if 2 <= len(stacked) < len(kept):
        notes.append(_left_out(len(kept) - len(stacked), "with ImageType LOCALIZER"))
        kept = stacked
    slices: list[Slice] = []
    nowhere: list[str] = []
    for number in kept:
        try:
            slices += planes(images[number], number)
        except ImageError as error:
            nowhere.append(str(error))
    if not slices or len(nowhere) > len(kept) / 2:
        raise ImageError(nowhere[0] if nowhere else "expected a series of at least 2 slices, got 0")
    if nowhere:
        notes.append(_left_out(len(nowhere), f"without a place in space ({nowhere[0]})"))
    shapes = _by_shape(slices, images)
    alone = [shape for shape in shapes if len(shape.slices) < 2]
    if alone and len(alone) < len(shapes):
        differs = ", ".join(f"{name} {value}" for name, value in alone[0].tells)
        notes.append(_left_out(len(alone), f"that differs from the others ({differs})"))
        shapes = [shape for shape in shapes if len(shape.slices) > 1]
        if len(shapes) == 1:
            shapes = [Part(shapes[0].slices)]
    parts = [part for shape in shapes for part in _divided(shape, images, [])]
    return Sorted(tuple(sorted(parts, key=lambda part: (-len(part.slices), part.key))), tuple(notes))


def _left_out(count: int, what: str) -> str:
    return f"{count} image{'s' if count > 1 else ''} {what} left out"


def _is_localizer(image: Dataset) -> bool:
    return "LOCALIZER" in str(image.get("ImageType", "")).upper()


def _by_shape(slices: Sequence[Slice], images: Sequence[Dataset]) -> list[Part]:
    """Slices of one frame of reference, size, spacing and orientation each; told apart by what differs."""
    found: list[list[Slice]] = []
    for slice_ in slices:
        for members in found:
            if _alike(slice_, members[0], images):
                members.append(slice_)
                break
        else:
            found.append([slice_])
    firsts = [members[0] for members in found]
    says: dict[str, Callable[[Slice], str]] = {
        "FrameOfReferenceUID": lambda slice_: _frame(slice_, images),
        "Size": lambda slice_: f"{slice_.size[0]}x{slice_.size[1]}",
        "PixelSpacing": lambda slice_: "x".join(f"{edge:.3g}" for edge in slice_.spacing_mm),
        "Orientation": lambda slice_: "/".join(f"{cosine:.3f}" for cosine in slice_.axes.ravel()),
    }
    differ = [name for name, say in says.items() if len({say(slice_) for slice_ in firsts}) > 1]
    return [
        Part(tuple(members), tuple((name, says[name](members[0])) for name in differ) if len(found) > 1 else ())
        for members in found
    ]


def _frame(slice_: Slice, images: Sequence[Dataset]) -> str:
    return str(images[slice_.image].get("FrameOfReferenceUID", ""))


def _alike(slice_: Slice, other: Slice, images: Sequence[Dataset]) -> bool:
    return (
        slice_.size == other.size
        and float(np.abs(slice_.axes - other.axes).max()) <= ALIKE
        and bool(np.allclose(slice_.spacing_mm, other.spacing_mm, rtol=1e-3))
        and _frame(slice_, images) == _frame(other, images)
    )


def told(image: Dataset, frame: int, name: str) -> str | float:
    """What an image says of one of `TELLS`: a number where it is one, else text, '' for nothing."""
    for keyword in TELLS[name]:
        value = attribute(image, frame, keyword)
        if value in (None, ""):
            continue
        if isinstance(value, Real):
            return float(value) if math.isfinite(value) else ""
        several = not isinstance(value, str) and hasattr(value, "__iter__")
        return "/".join(str(item) for item in value) if several else str(value).strip()
    return ""


def _plain(value: str | float) -> str:
    return f"{value:.10g}" if isinstance(value, float) else value or "none"


def _values(part: Part, images: Sequence[Dataset], name: str) -> list[str]:
    """What each slice says of one of `TELLS`, as text; numbers that differ by less than 2 % count as one."""
    raw = [told(images[slice_.image], slice_.frame, name) for slice_ in part.slices]
    merged: dict[float, float] = {}
    for number in sorted({value for value in raw if isinstance(value, float)}):
        last = next(reversed(merged.values()), None)
        close = last is not None and not (number.is_integer() and last.is_integer()) and number - last < 0.02 * number
        merged[number] = last if close and last is not None else number
    return [f"{merged[value]:.10g}" if isinstance(value, float) else value for value in raw]


def _divided(part: Part, images: Sequence[Dataset], used: list[str]) -> list[Part]:
    """Parts of a part whose slices share places, or lie between each other; itself where it is one volume."""
    together = crowded(part.slices)
    names = [name for name in (TELLS if together else INTERLACED) if name not in used]
    for name in names:
        values = _values(part, images, name)
        counts = {value: values.count(value) for value in values}
        if len(counts) < 2 or min(counts.values()) < 2:
            continue
        if together and not _all_differ(together, values, whole=name in INTERLACED):
            continue
        if not together and not _between(part, values, name, images):
            continue
        groups = [
            Part(
                tuple(slice_ for slice_, own in zip(part.slices, values, strict=True) if own == value),
                (*part.tells, (name, value or "none")),
            )
            for value in counts
        ]
        return [smaller for group in groups for smaller in _divided(group, images, [*used, name])]
    return [_with_repeats(part, together, images)] if together else [part]


def _all_differ(together: Sequence[Sequence[int]], values: Sequence[Hashable], whole: bool) -> bool:
    """Whether values tell apart what lies at one place: all of it, or (where they may be one of several) some."""
    differ = [len({values[index] for index in place}) for place in together]
    return (
        all(count > 1 for count in differ)
        if whole
        else all(count == len(place) for count, place in zip(differ, together, strict=True))
    )


def _between(part: Part, values: Sequence[str], name: str, images: Sequence[Dataset]) -> bool:
    """Whether slices of one value lie between slices of another, so that they are several volumes."""
    order = np.argsort(places_mm(part.slices))
    runs = 1 + sum(values[first] != values[second] for first, second in pairwise(order.tolist()))
    if runs == len(set(values)):
        return False
    first = images[part.slices[0].image]
    if name in ("AcquisitionNumber", "AcquisitionTime") and first.get("Modality") == "MR":
        # two passes over every second slice make one volume where slices are as thick as they lie apart
        steps = np.diff(places_mm(part.slices)[order])
        try:
            return float(attribute(first, 0, "SliceThickness")) > 1.3 * float(np.median(steps))
        except (TypeError, ValueError):
            return True
    return True


def _with_repeats(part: Part, together: Sequence[Sequence[int]], images: Sequence[Dataset]) -> Part:
    """One slice of each place is kept; a problem where headers say that they were acquired one after the other."""
    repeats, dropped = [], set()
    for place in together:
        kept, *others = sorted(place, key=lambda index: part.slices[index].instance)
        repeats += [(part.slices[kept], part.slices[other]) for other in others]
        dropped |= set(others)
    slices = tuple(slice_ for number, slice_ in enumerate(part.slices) if number not in dropped)
    first, second = repeats[0]
    where = (
        f"expected one image at each place, got two at {len(together)} of {len(slices)}, the first at "
        f"{first.position_mm.round(2).tolist()} mm ({first.instance} and {second.instance})"
    )
    for name in TELLS:
        values = [told(images[slice_.image], slice_.frame, name) for slice_ in (first, second)]
        if values[0] != values[1]:
            problem = f"{where}: {name} {' and '.join(sorted(map(_plain, values)))}; delete one of them"
            return Part(slices, part.tells, tuple(repeats), problem)
    return Part(slices, part.tells, tuple(repeats))
