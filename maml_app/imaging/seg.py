"""Label maps as DICOM Segmentation objects (PS3.3 A.51), both ways.

Every label of the task is a segment, present or not, and its number is its mask value: nothing depends on what a mask
happens to hold. Reading places frames by their geometry on the whole grid of the series, and segments by name or code.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from skimage.color import rgb2lab

from maml_app.cases.spec import Code, Label, TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.dicom import TO_RAS, Slice, Stack, planes
from maml_app.imaging.volume import Array, Grid

ARTIFICIAL_INTELLIGENCE = hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence")  # CID 7162
MAKER, MODEL_NAME = "MAML", "maml_app"
Drawn = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]
TYPE_2 = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate")
SHORT = 16  # longest SH value, PS3.5 table 6.2-1
OFF_GRID_VOX = 0.1  # a frame this far from a voxel of the series is on another grid


@dataclass(frozen=True)
class SegInfo:
    """What a SEG says of itself, without its pixels."""

    instance: str
    series: str  # its own SeriesInstanceUID
    refers_to: str  # SeriesInstanceUID of the images it is drawn on; '' if it does not say
    ours: bool
    task: str  # the task it was written for, '' if it is not ours
    drawn: str  # AUTOMATIC, SEMIAUTOMATIC or MANUAL; the least automatic of its segments
    written: str  # date and time, sortable
    number: int


def seg_info(header: Dataset) -> SegInfo:
    """Read a SEG's header."""
    refers = header.get("ReferencedSeriesSequence") or []
    kinds = {str(segment.get("SegmentAlgorithmType", "")) for segment in header.get("SegmentSequence") or []}
    ours = str(header.get("ManufacturerModelName", "")) == MODEL_NAME
    return SegInfo(
        instance=str(header.SOPInstanceUID),
        series=str(header.SeriesInstanceUID),
        refers_to=str(refers[0].get("SeriesInstanceUID", "")) if refers else "",
        ours=ours,
        task=str(header.get("ContentLabel", "")).lower() if ours else "",
        drawn=next((kind for kind in ("MANUAL", "SEMIAUTOMATIC", "AUTOMATIC") if kind in kinds), ""),
        written=f"{header.get('ContentDate', '')}{header.get('ContentTime', '')}",
        number=int(header.get("InstanceNumber") or 0),
    )


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def content_label(spec: TaskSpec) -> str:
    """The task's name as a ContentLabel, a code string of at most 16 characters."""
    return spec.name.upper()[:16]


def write_seg(
    label: Array,
    order: Stack,
    headers: Sequence[Dataset],
    spec: TaskSpec,
    drawn: Drawn,
    number: int,
    algorithm: str = "",
    description: str = "",
    author: str = "",
) -> Dataset:
    """A BINARY SEG of a label map with the task's values on the grid of a series.

    Args:
        label: (X, Y, Z) uint8 on `order.grid`. All zero is a valid label: reviewed, and nothing found.
        order: the slices of the series, as `stack` gave them for `headers`.
        headers: the images of the series, without pixels or with.
        drawn: AUTOMATIC for a proposal, SEMIAUTOMATIC when a person changed or confirmed it, MANUAL without a model.
        number: version of the label, InstanceNumber.
        algorithm: version of the model that proposed it.

    Raises:
        LabelError: the label is not on the grid of the series, holds values that are not the task's, or the series
            lacks attributes that a SEG must repeat.
    """
    if label.shape != order.grid.shape:
        raise LabelError(f"expected a label of shape {order.grid.shape} for this series, got {label.shape}")
    unknown = sorted(set(np.unique(label).tolist()) - {0, *spec.label_values})
    if unknown:
        raise LabelError(f"expected label values {spec.label_values}, got {unknown}")
    by_uid = {str(header.SOPInstanceUID): header for header in headers}
    frames = np.ascontiguousarray(label.transpose(2, 1, 0))  # slice, row, column
    if len(set(order.instances)) == 1 and len(order.slices) > 1:  # multi-frame: in the order of its frames
        frames = frames[np.argsort([one.frame for one in order.slices])]
        sources = [by_uid[order.slices[0].instance]]
    else:
        sources = [by_uid[instance] for instance in order.instances]
    sources = [_complete(source) for source in sources]
    identification = None
    if drawn != "MANUAL":
        identification = hd.AlgorithmIdentificationSequence(
            name=f"MAML {spec.name}", family=ARTIFICIAL_INTELLIGENCE, version=algorithm or "unknown"
        )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=one.value,
            segment_label=one.name,
            segmented_property_category=_concept(one.category),
            segmented_property_type=_concept(one.type),
            algorithm_type=drawn,
            algorithm_identification=identification,
            tracking_uid=hd.UID(),
            tracking_id=f"{spec.name}.{one.name}",
        )
        for one in spec.labels
    ]
    kind = "proposal" if drawn == "AUTOMATIC" else "label"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an empty mask has all its frames written is what we want
            seg = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type="BINARY",
                segment_descriptions=segments,
                series_instance_uid=hd.UID(),
                series_number=9000 + number,
                sop_instance_uid=hd.UID(),
                instance_number=number,
                manufacturer=MAKER,
                manufacturer_model_name=MODEL_NAME,
                software_versions="0.1",
                device_serial_number="0",
                content_label=content_label(spec),
                content_description=(description or f"{kind} {number}")[:64],
                content_creator_name=author or None,
                series_description=f"{spec.title[:40]}, {kind} {number}",
            )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise LabelError(f"the label could not be written as DICOM SEG for this series: {error}") from None
    for segment, one in zip(seg.SegmentSequence, spec.labels, strict=True):
        segment.RecommendedDisplayCIELabValue = _cielab(one.colour)
    return seg


def _complete(source: Dataset) -> Dataset:
    """A copy of a header that a SEG can repeat: with what must be there even when empty (type 2), cut to its length."""
    source = copy.copy(source)
    for keyword in (*TYPE_2, "StudyTime", "ReferringPhysicianName"):
        if keyword not in source:
            setattr(source, keyword, "")
    for keyword in ("StudyID", "AccessionNumber"):
        if len(source[keyword].value or "") > SHORT:
            setattr(source, keyword, source[keyword].value[:SHORT])
    if not hasattr(source, "file_meta"):
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return source


def _cielab(colour: tuple[int, int, int]) -> list[int]:
    """sRGB 0..255 as DICOM's scaled CIELab, PS3.3 C.10.7.1.1."""
    lightness, a, b = rgb2lab(np.array(colour, dtype=float)[None, None] / 255)[0, 0]
    return [round(lightness * 65535 / 100), round((a + 128) * 65535 / 255), round((b + 128) * 65535 / 255)]


def segment_values(seg: Dataset, spec: TaskSpec) -> dict[int, int]:
    """Segment number -> mask value, by the segment's name, else by its type code.

    Raises:
        LabelError: a segment that is no label of the task, or two that are the same one.
    """
    by_code: dict[tuple[str, str], list[Label]] = {}
    for one in spec.labels:
        by_code.setdefault((one.type.scheme, one.type.value), []).append(one)
    values: dict[int, int] = {}
    for segment in seg.get("SegmentSequence") or []:
        name = str(segment.get("SegmentLabel", ""))
        value = spec.value_of(name)
        kind = (segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
        if value is None:
            found = by_code.get((str(kind.get("CodingSchemeDesignator", "")), str(kind.get("CodeValue", ""))), [])
            value = found[0].value if len(found) == 1 else None
        if value is None:
            known = [f"{one.name} ({one.type.scheme} {one.type.value})" for one in spec.labels]
            raise LabelError(
                f"segment {segment.get('SegmentNumber')}: expected one of {known}, got {name!r} "
                f"({kind.get('CodingSchemeDesignator')} {kind.get('CodeValue')}, {kind.get('CodeMeaning')})"
            )
        if value in values.values():
            raise LabelError(f"expected one segment a label, got two that are {spec.label_values[value]}")
        values[int(segment.SegmentNumber)] = value
    return values


def read_seg(seg: Dataset, order: Stack, spec: TaskSpec, frame_of_reference: str) -> Array:
    """The label map of a SEG on the whole grid of a series, uint8 (X, Y, Z), with the task's values.

    Args:
        seg: BINARY, FRACTIONAL (a voxel counts from one half on) or LABELMAP, pixels included.
        order: the slices of the series it was drawn on.
        frame_of_reference: the FrameOfReferenceUID of that series.

    Raises:
        LabelError: another frame of reference, frames that do not lie on the grid of the series, segments that are no
            labels of the task or that overlap, or pixels that cannot be decoded.
    """
    where = f"SEG {seg.get('SOPInstanceUID', '(no UID)')}"
    own_frame = str(seg.get("FrameOfReferenceUID", ""))
    if own_frame != frame_of_reference:
        raise LabelError(f"{where}: expected FrameOfReferenceUID {frame_of_reference}, got {own_frame or 'none'}")
    values = segment_values(seg, spec)
    kind = str(seg.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise LabelError(f"{where}: expected SegmentationType BINARY, FRACTIONAL or LABELMAP, got {kind or 'none'}")
    try:
        pixels = np.asarray(seg.pixel_array).reshape(-1, int(seg.Rows), int(seg.Columns))
        frames = planes(seg)
    except Exception as error:  # decoders raise what they like
        raise LabelError(f"{where}: expected frames that can be read, got: {error}") from None
    label = np.zeros(order.grid.shape, np.uint8)
    for place, frame in enumerate(frames):
        corner, axes = _place(frame, order.grid, where)
        if kind == "LABELMAP":
            table = np.zeros(int(pixels.max(initial=0)) + 256, np.uint8)
            for number, value in values.items():
                table[number] = value
            plane = table[pixels[place]]
        else:
            half = 0.5 * float(seg.get("MaximumFractionalValue") or 255) if kind == "FRACTIONAL" else 0.5
            plane = np.where(pixels[place] > half, values[_segment_of(seg, place)], 0).astype(np.uint8)
        _add(label, plane, corner, axes, where, spec.label_values)
    return label


def _segment_of(seg: Dataset, frame: int) -> int:
    for name, groups in (("PerFrame", frame), ("Shared", 0)):
        group = seg.get(f"{name}FunctionalGroupsSequence")
        if group and group[groups].get("SegmentIdentificationSequence"):
            return int(group[groups].SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    raise LabelError(f"SEG {seg.get('SOPInstanceUID')}: frame {frame + 1} does not say which segment it is of")


def _place(frame: Slice, grid: Grid, where: str) -> tuple[Array, Array]:
    """The voxel of the grid where a frame's first pixel lies, and the voxel steps (2, 3) along its columns and rows."""
    to_vox = np.linalg.inv(grid.affine) @ TO_RAS
    corner = to_vox[:3, :3] @ frame.position_mm + to_vox[:3, 3]
    axes = (frame.axes * np.array(frame.spacing_mm)[:, None]) @ to_vox[:3, :3].T
    whole = np.rint(corner), np.rint(axes)
    # over the longest side a small error of a step adds up
    reach = max(grid.shape)
    if np.abs(corner - whole[0]).max() > OFF_GRID_VOX or np.abs(axes - whole[1]).max() * reach > 1:
        raise LabelError(
            f"{where}: expected frames on the grid of its series ({grid}), got one at voxel {corner.round(2).tolist()} "
            f"with steps {axes.round(3).tolist()}"
        )
    if np.abs(whole[1]).sum() != 2:
        raise LabelError(f"{where}: expected frames with the spacing of the series, got steps {axes.round(3).tolist()}")
    return whole[0].astype(int), whole[1].astype(int)


def _add(label: Array, plane: Array, corner: Array, axes: Array, where: str, names: Mapping[int, str]) -> None:
    rows, columns = np.nonzero(plane)
    if not len(rows):
        return
    index = corner + columns[:, None] * axes[0] + rows[:, None] * axes[1]
    if (index < 0).any() or (index >= np.array(label.shape)).any():
        raise LabelError(f"{where}: expected segments inside the extent of the series, got voxels outside it")
    x, y, z = index.T
    new, old = plane[rows, columns], label[x, y, z]
    clash = (old != 0) & (old != new)
    if clash.any():
        one, two = names[int(old[clash][0])], names[int(new[clash][0])]
        raise LabelError(
            f"{where}: expected segments that do not overlap, got {int(clash.sum())} voxels that are both {one} and "
            f"{two}; a label map holds one label a voxel"
        )
    label[x, y, z] = new
