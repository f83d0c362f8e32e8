"""What the headers of a series tell, without its pixels: its volumes, what is wrong with them, what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from maml_app.errors import ImageError
from maml_app.imaging.lenient import BROKEN_VALUE, lenient
from maml_app.imaging.pixels import unusable
from maml_app.imaging.planes import groups
from maml_app.imaging.sorting import TELLS, Part, Sorted, sort_out, told
from maml_app.imaging.suv import suv_factor

LONGEST = 256  # characters of an attribute that are kept for the rules


@dataclass(frozen=True)
class Surveyed:
    """One volume of a series as its headers tell it.

    `attributes` are those of its first image as text, by keyword, none of the patient's; ContrastBolusAgent also where
    agents are named as codes only. `part` is the key of `sorting.Part`, '' where the series is one volume. `problem`
    says why it cannot be used.
    """

    frame: str
    images: int
    attributes: dict[str, str] = field(default_factory=dict)
    part: str = ""
    problem: str = ""
    notes: tuple[str, ...] = ()


def survey(headers: Sequence[Dataset]) -> list[Surveyed]:
    """Look at the headers of all images of a series; what cannot be used is a problem, not an error."""
    with lenient():
        try:
            found = sort_out(headers)
        except ImageError as error:
            first = headers[0]
            return [
                Surveyed(_frame(first), len(headers), plain(first), problem=_problem(first, str(error), len(headers)))
            ]
        return [_surveyed(part, headers, found) for part in found.parts]


def _surveyed(part: Part, headers: Sequence[Dataset], found: Sorted) -> Surveyed:
    first = headers[part.slices[0].image]
    used = [headers[slice_.image] for slice_ in part.slices]
    problem = ""
    try:
        part.stack(found.notes)
        problem = unusable([(headers[slice_.image], slice_.frame) for slice_ in part.slices])
        # private attributes and sequences need not come with the headers: what is absent is judged with the images
        told_here = first.get("RadiopharmaceuticalInformationSequence") and first.get("Units") != "CNTS"
        if first.get("Modality") == "PT" and told_here:
            suv_factor(used, [headers[index] for index in found.images])
    except ImageError as error:
        problem = str(error)
    attributes = plain(first)
    for name in TELLS:
        value = told(first, part.slices[0].frame, name)
        if value not in ("", None) and (name not in attributes or name in dict(part.tells)):
            attributes[name] = f"{value:.10g}" if isinstance(value, float) else value.replace("/", "\\")
    if agents := _agents(first, part.slices[0].frame):
        attributes.setdefault("ContrastBolusAgent", agents)
    more = []
    if part.repeats and not problem:
        more = [f"{len(part.repeats)} images lie where another does; used if their pixels are the same"]
    images = len({slice_.instance for slice_ in part.slices})
    return Surveyed(
        _frame(first), images, attributes, part.key, _problem(first, problem, len(part.slices)), (*found.notes, *more)
    )


def _agents(image: Dataset, frame: int) -> str:
    """The contrast agents of a frame that are named as codes (PS3.3 C.7.6.4b), joined by a backslash.

    A multi-frame image lists those of all its frames, and which a frame was taken with (PS3.3 C.7.6.16.2.12).
    """
    used = [usage for group in groups(image, frame) for usage in group.get("ContrastBolusUsageSequence") or []]
    given = {
        usage.get("ContrastBolusAgentNumber") for usage in used if usage.get("ContrastBolusAgentAdministered") != "NO"
    }
    names = [
        str(agent.get("CodeMeaning", "") or agent.get("CodeValue", "") or "").strip()
        for agent in image.get("ContrastBolusAgentSequence") or []
        if not used or agent.get("ContrastBolusAgentNumber") in given
    ]
    return "\\".join(filter(None, names))


def _problem(image: Dataset, problem: str, slices: int) -> str:
    """Too few slices are no fault of a series: rules leave single images and localizers out anyhow."""
    return "" if slices < 2 or "LOCALIZER" in str(image.get("ImageType", "")).upper() else problem


def _frame(image: Dataset) -> str:
    return str(image.get("FrameOfReferenceUID", "") or "")


def plain(header: Dataset) -> dict[str, str]:
    """Attributes as text, for the rules; none of the patient's, no private ones."""
    result = {}
    for tag in sorted(header.keys()):
        if tag.group in (0x0010, 0x7FE0) or tag.is_private:
            continue
        try:
            element = header[tag]
        except BROKEN_VALUE:
            continue
        if element.VR == "SQ" or not element.keyword:
            continue
        value = element.value
        text = "\\".join(map(str, value)) if isinstance(value, (MultiValue, list, tuple)) else str(value)
        if value is not None and text and len(text) <= LONGEST:
            result[element.keyword] = text
    return result
