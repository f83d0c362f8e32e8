"""What a DICOM Segmentation object says of itself, without its pixels (PS3.3 A.51)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from maml_app.cases.spec import Label, TaskSpec
from maml_app.errors import LabelError, ObjectError
from maml_app.imaging.suv import parse_date_time

MAKER, MODEL_NAME = "MAML", "maml_app"
GROUP, CREATOR, RECORD = 0x0071, "MAML_APP", 0x01  # the private element (PS3.5 7.8.1) that holds a label's record
SHORT = 16  # longest code string and SH value, PS3.5 table 6.2-1
Drawn = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]


@dataclass(frozen=True)
class SegInfo:
    """What a SEG says of itself, without its pixels."""

    instance: str
    series: str  # its own SeriesInstanceUID
    refers_to: str  # SeriesInstanceUID of the images it is drawn on; '' if it does not say
    image: str  # SOPInstanceUID of the first of these images; '' if it does not say
    ours: bool
    task: str  # the task it was written for, '' if it is not ours
    drawn: str  # AUTOMATIC, SEMIAUTOMATIC or MANUAL; the least automatic of its segments
    written: str  # date and time, sortable
    number: int
    author: str = ""
    record: str = ""  # ours: the label's entry in its history, JSON
    frame: str = ""  # FrameOfReferenceUID; '' if it does not say


def seg_info(header: Dataset) -> SegInfo:
    """Read a SEG's header.

    Raises:
        ObjectError: it lacks a UID of its own.
    """
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        if not header.get(name):
            raise ObjectError(f"expected a SEG with {name}, got one without")
    refers = header.get("ReferencedSeriesSequence") or [Dataset()]
    images = refers[0].get("ReferencedInstanceSequence") or [Dataset()]
    kinds = {str(segment.get("SegmentAlgorithmType", "")) for segment in header.get("SegmentSequence") or []}
    ours = str(header.get("ManufacturerModelName", "")) == MODEL_NAME
    try:
        number = int(header.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return SegInfo(
        instance=str(header.SOPInstanceUID),
        series=str(header.SeriesInstanceUID),
        refers_to=str(refers[0].get("SeriesInstanceUID", "")),
        image=str(images[0].get("ReferencedSOPInstanceUID", "")),
        ours=ours,
        task=_task(header) if ours else "",
        drawn=next((kind for kind in ("MANUAL", "SEMIAUTOMATIC", "AUTOMATIC") if kind in kinds), ""),
        written=written(header),
        number=number,
        author=str(header.get("ContentCreatorName", "") or ""),
        record=_record(header) if ours else "",
        frame=str(header.get("FrameOfReferenceUID", "") or ""),
    )


def _record(header: Dataset) -> str:
    try:
        value = header.private_block(GROUP, CREATOR)[RECORD].value
    except KeyError:
        return ""
    if isinstance(value, MultiValue):  # UT is one value (PS3.5 6.2), but archives cut it at each backslash
        value = "\\".join(str(part or "") for part in value)
    # an archive that does not know the element gives it as bytes
    return value.rstrip(b"\0 ").decode(errors="replace") if isinstance(value, bytes) else str(value)


def written(header: Dataset) -> str:
    """When an object's content was made, as sortable text, with the day and time that it has; '' if it does not say.

    In UTC, as ours are, where it tells its zone.
    """
    zone = str(header.get("TimezoneOffsetFromUTC", "") or "").strip()
    for name in ("Content", "StructureSet", "InstanceCreation", "Series"):
        day, time = (str(header.get(f"{name}{part}", "") or "").strip() for part in ("Date", "Time"))
        if day:
            text = day.replace(".", "") + time.replace(":", "")
            moment = parse_date_time(text + zone)
            if moment is None or moment.tzinfo is None:
                return text
            try:
                return f"{moment.astimezone(UTC):%Y%m%d%H%M%S}{text[14:]}"  # parts of a second stay
            except OverflowError:  # the last day that there is
                return text
    return ""


def _task(header: Dataset) -> str:
    """The whole name of the task: ContentLabel has room for its first 16 characters only, TrackingID is TASK.LABEL."""
    for segment in header.get("SegmentSequence") or []:
        task, _, label = str(segment.get("TrackingID", "") or "").rpartition(".")
        if task and label == str(segment.get("SegmentLabel", "")):
            return task
    return str(header.get("ContentLabel", "")).lower()


def tracking_id(spec: TaskSpec, label: Label) -> str:
    """What a segment is called wherever it is followed; tells the task too."""
    return f"{spec.name}.{label.name}"


def content_label(spec: TaskSpec) -> str:
    """The task's name as a ContentLabel, a code string of at most 16 characters: for people, not to compare."""
    return spec.name.upper()[:SHORT]


def segment_name(segment: Dataset) -> str:
    return str(segment.get("SegmentLabel", "") or "")


def segment_type(segment: Dataset) -> str:
    """What a segment's type is called, else its code; '' if it says none."""
    kind = (segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
    return str(kind.get("CodeMeaning", "") or kind.get("CodeValue", "") or "")


def label_of(segment: Dataset, spec: TaskSpec) -> int | None:
    """The task's value for a segment by its name, else by its type code where that is of one label only."""
    value = spec.value_of(segment_name(segment))
    if value is not None:
        return value
    kind = (segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
    code = str(kind.get("CodingSchemeDesignator", "")), str(kind.get("CodeValue", ""))
    found = [label.value for label in spec.labels if (label.type.scheme, label.type.value) == code]
    return found[0] if len(found) == 1 else None


def segment_values(seg: Dataset, spec: TaskSpec) -> dict[int, int]:
    """Segment number -> mask value, by the segment's name, else by its type code.

    Raises:
        LabelError: a segment that is no label of the task, or two that are the same one.
    """
    values: dict[int, int] = {}
    for segment in seg.get("SegmentSequence") or []:
        value = label_of(segment, spec)
        if value is None:
            known = [f"{label.name} ({label.type.scheme} {label.type.value})" for label in spec.labels]
            kind = (segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
            raise LabelError(
                f"segment {segment.get('SegmentNumber')}: expected one of {known}, got {segment_name(segment)!r} "
                f"({kind.get('CodingSchemeDesignator')} {kind.get('CodeValue')}, {kind.get('CodeMeaning')})"
            )
        if value in values.values():
            raise LabelError(f"expected one segment a label, got two that are {spec.label_values[value]}")
        values[int(segment.SegmentNumber)] = value
    return values
