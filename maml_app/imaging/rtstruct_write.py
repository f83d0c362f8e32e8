"""Label maps as RT Structure Sets (PS3.3 A.19): the outlines of each label on the slices of a series.

The outlines run half-way between voxel centres inside and outside (scikit-image's marching squares), so that a program
that asks which centres lie inside gets the same mask back. A hole is a contour of its own within another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DA, TM, format_number_as_ds
from skimage.measure import find_contours

from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.lenient import lenient
from maml_app.imaging.planes import TO_RAS, Stack
from maml_app.imaging.repeated import sources, text
from maml_app.imaging.volume import Array

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
REPEATED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def write_rtstruct(
    label: Array, order: Stack, headers: Sequence[Dataset], spec: TaskSpec, written: datetime
) -> FileDataset:
    """A structure set of a label map (X, Y, Z) uint8 on the grid of a series; `order` and `headers` as of `write_seg`.

    Raises:
        LabelError: the label is not on the grid of the series, or the series lacks UIDs that must be repeated.
    """
    if label.shape != order.grid.shape:
        raise LabelError(f"expected a label of shape {order.grid.shape} for this series, got {label.shape}")
    with lenient():
        images = sources(order, headers)
        first = images[0]
        file = _object(first, spec, written)
        frame = str(first.get("FrameOfReferenceUID", ""))
        file.ReferencedFrameOfReferenceSequence = [_reference(images, frame)]
        file.StructureSetROISequence, file.ROIContourSequence, file.RTROIObservationsSequence = [], [], []
        for number, named in enumerate(spec.labels, start=1):
            roi, drawn, observed = Dataset(), Dataset(), Dataset()
            roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, named.name, frame
            roi.ROIGenerationAlgorithm = "SEMIAUTOMATIC"
            drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(named.colour)
            drawn.ContourSequence = _contours(label == named.value, order, images)
            observed.ObservationNumber = observed.ReferencedROINumber = number
            observed.RTROIInterpretedType, observed.ROIInterpreter = "", ""
            file.StructureSetROISequence.append(roi)
            file.ROIContourSequence.append(drawn)
            file.RTROIObservationsSequence.append(observed)
    return file


def _object(first: Dataset, spec: TaskSpec, written: datetime) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(RT_STRUCTURE_SET), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.is_little_endian, file.is_implicit_VR = True, False
    file.SpecificCharacterSet = "ISO_IR 192"
    file.SOPClassUID, file.SOPInstanceUID = UID(RT_STRUCTURE_SET), meta.MediaStorageSOPInstanceUID
    for keyword in REPEATED:
        setattr(file, keyword, first.get(keyword, ""))
    file.Modality, file.SeriesInstanceUID, file.SeriesNumber = "RTSTRUCT", generate_uid(), 9500
    file.Manufacturer, file.SeriesDescription = "MAML", text(spec.title, 64)
    file.OperatorsName = ""
    file.StructureSetLabel, file.StructureSetName = text(spec.name, 16), text(spec.title, 64)
    file.StructureSetDate, file.StructureSetTime = DA(written.date()), TM(written.time())
    file.ApprovalStatus = "UNAPPROVED"
    return file


def _reference(images: Sequence[Dataset], frame: str) -> Dataset:
    reference, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = [_image(image) for image in images]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as the module demands
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = frame, [study]
    return reference


def _image(image: Dataset, frame: int | None = None) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if frame is not None:
        found.ReferencedFrameNumber = frame + 1
    return found


def _contours(mask: Array, order: Stack, images: Sequence[Dataset]) -> list[Dataset]:
    """The outlines of a mask (X, Y, Z), slice by slice."""
    to_lps = np.linalg.inv(TO_RAS) @ order.grid.affine
    by_uid = {str(image.SOPInstanceUID): image for image in images}
    found = []
    for place in np.flatnonzero(mask.any(axis=(0, 1))):
        source = order.slices[place]
        image = by_uid[source.instance]
        whole = len(by_uid) < len(order.slices)
        for line in find_contours(np.pad(mask[:, :, place], 1).astype(float), 0.5):
            points = np.column_stack([line[:-1] - 1, np.full(len(line) - 1, place)])  # the last is the first again
            places = points @ to_lps[:3, :3].T + to_lps[:3, 3]
            contour = Dataset()
            contour.ContourImageSequence = [_image(image, source.frame if whole else None)]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(places)
            contour.ContourData = [format_number_as_ds(float(value)) for value in places.ravel()]
            found.append(contour)
    return found
