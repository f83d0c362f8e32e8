"""What a DICOM object repeats of the images that it belongs to, in a form that can be written.

Archives hold values that break their VR, and lack attributes that must be there: none of it may cost a label. Nothing
of an image is taken as it is; what cannot be written is left empty (type 2 attributes may be), or cut to its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from maml_app.errors import LabelError
from maml_app.imaging.lenient import BROKEN_VALUE
from maml_app.imaging.planes import Slice, Stack, attribute, frames_of, planes

# longest values, PS3.5 table 6.2-1
TEXTS = {"PatientID": 64, "StudyID": 16, "AccessionNumber": 16, "PositionReferenceIndicator": 64}
NAMES = ("PatientName", "ReferringPhysicianName")
PATTERNS = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "PatientSex": "[MFO]",
}


def text(value: object, longest: int) -> str:
    """A value as a line of text without control characters and backslashes, cut to its length."""
    plain = "".join(" " if ord(sign) < 32 or sign in "\\\x7f" else sign for sign in str(value or ""))
    return plain.strip()[:longest].strip()


def person_name(value: object) -> str:
    """A person's name (PN): up to three groups of 64 characters."""
    return "=".join(text(part, 64) for part in str(value or "").split("=")[:3]).rstrip("=")


def sources(order: Stack, headers: Sequence[Dataset]) -> list[Dataset]:
    """The images of a series as a new object refers to them: one a slice in their order, or one multi-frame image.

    Raises:
        LabelError: they lack a UID that must be repeated.
    """
    by_uid = {str(header.get("SOPInstanceUID", "")): header for header in headers}
    first = by_uid[order.instances[0]]
    identity = _identity(first)
    whole = len(set(order.instances)) == 1 and frames_of(first) > 1
    made = []
    for slice_ in order.slices[: 1 if whole else None]:
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for keyword, value in identity.items():
            setattr(image, keyword, value)
        header = by_uid[slice_.instance]
        image.SOPInstanceUID, image.SOPClassUID = slice_.instance, _uid(header, "SOPClassUID")
        image.Columns, image.Rows = slice_.size
        thickness = _thickness(header, order)
        if whole:
            _frames(image, planes(header), thickness, slice_)
        else:
            _measures(image, slice_, thickness)
            image.ImageOrientationPatient = _numbers(slice_.axes.ravel())
            image.ImagePositionPatient = _numbers(slice_.position_mm)
        made.append(image)
    return made


def _identity(header: Dataset) -> dict[str, object]:
    """Patient, study, series and frame of reference."""
    result: dict[str, object] = {
        keyword: _uid(header, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    }
    result |= {keyword: text(_value(header, keyword), longest) for keyword, longest in TEXTS.items()}
    result |= {keyword: person_name(_value(header, keyword)) for keyword in NAMES}
    for keyword, pattern in PATTERNS.items():
        plain = text(_value(header, keyword), 64).replace(":", "").upper()
        plain = plain.replace(".", "").replace("-", "") if keyword.endswith("Date") else plain
        result[keyword] = plain if re.fullmatch(pattern, plain) and _is_day(keyword, plain) else ""
    result["Modality"] = text(_value(header, "Modality"), 16)
    return result


def _is_day(keyword: str, plain: str) -> bool:
    if keyword.endswith("Time"):
        return int(plain[:2]) < 24 and int(plain[2:4] or 0) < 60 and float(plain[4:] or 0) < 60
    return not keyword.endswith("Date") or (1 <= int(plain[4:6]) <= 12 and 1 <= int(plain[6:]) <= 31)


def _value(header: Dataset, keyword: str) -> object:
    try:
        return header.get(keyword)
    except BROKEN_VALUE:
        return None


def _uid(header: Dataset, keyword: str) -> str:
    value = str(_value(header, keyword) or "").strip()
    if not value:
        raise LabelError(f"the label could not be written as DICOM SEG for this series: its images have no {keyword}")
    return value


def _thickness(header: Dataset, order: Stack) -> float:
    """SliceThickness, mm; where it is empty or none, the distance of slices."""
    try:
        value = float(attribute(header, 0, "SliceThickness"))
    except (TypeError, ValueError):
        value = 0.0
    step = abs(float((order.slices[-1].position_mm - order.slices[0].position_mm) @ order.slices[0].normal))
    return value if 0 < value < np.inf else step / (len(order.slices) - 1)


def _numbers(values: Iterable[float]) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _measures(target: Dataset, slice_: Slice, thickness: float) -> None:
    columns, rows = slice_.spacing_mm
    target.PixelSpacing, target.SliceThickness = _numbers([rows, columns]), format_number_as_ds(thickness)


def _frames(image: Dataset, frames: Sequence[Slice], thickness: float, slice_: Slice) -> None:
    """The functional groups of a multi-frame image that place its frames."""
    image.NumberOfFrames = len(frames)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    _measures(measures, slice_, thickness)
    orientation.ImageOrientationPatient = _numbers(slice_.axes.ravel())
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = []
    for frame in frames:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = _numbers(frame.position_mm)
        group.PlanePositionSequence = [position]
        image.PerFrameFunctionalGroupsSequence.append(group)
