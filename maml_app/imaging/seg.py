"""Label maps as DICOM Segmentation objects (PS3.3 A.51), both ways.

Every label of the task is a segment, present or not, and its number is its mask value: nothing depends on what a mask
happens to hold. Reading places frames by their geometry on the whole grid of the series, and segments by name or code.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM
from skimage.color import rgb2lab

from maml_app.cases.spec import Code, TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.lenient import lenient
from maml_app.imaging.planes import Stack
from maml_app.imaging.repeated import person_name, sources, text
from maml_app.imaging.seg_info import (
    CREATOR,
    GROUP,
    MAKER,
    MODEL_NAME,
    RECORD,
    Drawn,
    SegInfo,
    content_label,
    seg_info,
    segment_values,
    tracking_id,
)
from maml_app.imaging.seg_read import read_seg
from maml_app.imaging.volume import Array
from maml_app.version import VERSION

__all__ = ["Drawn", "SegInfo", "content_label", "read_seg", "seg_info", "segment_values", "write_seg"]
ARTIFICIAL_INTELLIGENCE = hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence")  # CID 7162
UTF_8 = "ISO_IR 192"


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


@dataclass(frozen=True)
class Provenance:
    """How a label came about.

    Attributes:
        drawn: AUTOMATIC for a proposal, SEMIAUTOMATIC when a person changed or confirmed it, MANUAL without a model.
        number: version of the label, InstanceNumber.
        algorithm: version of the model that proposed it.
        description: ContentDescription; what it is and its number, if empty.
        author: who drew or changed it, ContentCreatorName.
        written: when, ContentDate and ContentTime; now, if None.
        record: the label's entry in its history, JSON, kept in a private element.
    """

    drawn: Drawn
    number: int = 1
    algorithm: str = ""
    description: str = ""
    author: str = ""
    written: datetime | None = None
    record: str = ""


def write_seg(
    label: Array, order: Stack, headers: Sequence[Dataset], spec: TaskSpec, provenance: Provenance
) -> Dataset:
    """A BINARY SEG of a label map with the task's values on the grid of a series.

    Args:
        label: (X, Y, Z) uint8 on `order.grid`. All zero is a valid label: reviewed, and nothing found.
        order: the slices of the series, as `stack` gave them for `headers`.
        headers: the images of the series, without pixels or with.

    Raises:
        LabelError: the label is not on the grid of the series, holds values that are not the task's, or the series
            lacks UIDs that a SEG must repeat.
    """
    if label.shape != order.grid.shape:
        raise LabelError(f"expected a label of shape {order.grid.shape} for this series, got {label.shape}")
    unknown = sorted(set(np.unique(label).tolist()) - {0, *spec.label_values})
    if unknown:
        raise LabelError(f"expected label values {spec.label_values}, got {unknown}")
    number = provenance.number
    kind = "proposal" if provenance.drawn == "AUTOMATIC" else "label"
    try:
        with warnings.catch_warnings(), lenient():
            warnings.simplefilter("ignore")  # that an empty mask has all its frames written is what we want
            images = sources(order, headers)
            frames, positions = _frames(label, order, images)
            seg = hd.seg.Segmentation(
                source_images=images,
                pixel_array=frames,
                segmentation_type="BINARY",
                segment_descriptions=_segments(spec, provenance),
                series_instance_uid=hd.UID(),
                series_number=9000 + number,
                sop_instance_uid=hd.UID(),
                instance_number=number,
                manufacturer=MAKER,
                manufacturer_model_name=MODEL_NAME,
                software_versions=VERSION,
                device_serial_number="0",
                content_label=content_label(spec),
                content_description=text(provenance.description, 64) or f"{kind} {number}",
                content_creator_name=person_name(provenance.author) or None,
                plane_positions=positions,
                series_description=text(f"{spec.title[:40]}, {kind} {number}", 64),
            )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise LabelError(f"the label could not be written as DICOM SEG for this series: {error}") from None
    seg.SpecificCharacterSet = UTF_8  # whatever the images use: names are repeated as they read
    if provenance.written:
        seg.ContentDate, seg.ContentTime = DA(provenance.written.date()), TM(provenance.written.time())
    if provenance.record:
        seg.private_block(GROUP, CREATOR, create=True).add_new(RECORD, "UT", provenance.record)
    for segment, structure in zip(seg.SegmentSequence, spec.labels, strict=True):
        segment.RecommendedDisplayCIELabValue = _cielab(structure.colour)
    return seg


def _frames(
    label: Array, order: Stack, images: Sequence[Dataset]
) -> tuple[Array, list[hd.PlanePositionSequence] | None]:
    """The label as frames (slice, row, column) in the order of the images' planes; and where they lie, unless there."""
    frames = np.ascontiguousarray(label.transpose(2, 1, 0))
    if len(images) == len(order.slices):
        return frames, None
    # multi-frame: in the order of its frames, and if the stack is only some of them, by place
    frames = frames[np.argsort([slice_.frame for slice_ in order.slices])]
    if int(images[0].NumberOfFrames) == len(frames):
        return frames, None
    shown = sorted(order.slices, key=lambda slice_: slice_.frame)
    return frames, [hd.PlanePositionSequence("PATIENT", slice_.position_mm.tolist()) for slice_ in shown]


def _segments(spec: TaskSpec, provenance: Provenance) -> list[hd.seg.SegmentDescription]:
    identification = None
    if provenance.drawn != "MANUAL":
        identification = hd.AlgorithmIdentificationSequence(
            name=f"MAML {spec.name}",
            family=ARTIFICIAL_INTELLIGENCE,
            version=text(provenance.algorithm, 64) or "unknown",
        )
    return [
        hd.seg.SegmentDescription(
            segment_number=label.value,
            segment_label=label.name,
            segmented_property_category=_concept(label.category),
            segmented_property_type=_concept(label.type),
            algorithm_type=provenance.drawn,
            algorithm_identification=identification,
            tracking_uid=hd.UID(),
            tracking_id=tracking_id(spec, label),
        )
        for label in spec.labels
    ]


def _cielab(colour: tuple[int, int, int]) -> list[int]:
    """sRGB 0..255 as DICOM's scaled CIELab, PS3.3 C.10.7.1.1."""
    lightness, a, b = rgb2lab(np.array(colour, dtype=float)[None, None] / 255)[0, 0]
    return [round(lightness * 65535 / 100), round((a + 128) * 65535 / 255), round((b + 128) * 65535 / 255)]
