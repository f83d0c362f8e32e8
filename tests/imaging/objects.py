"""DICOM objects that tests change: series of a known ramp, enhanced images, repeated acquisitions, structure sets."""

from __future__ import annotations

import copy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from maml_app.cases.spec import Modality, TaskSpec
from maml_app.imaging.dicom import TO_RAS
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.phantom.dicom import write_series

OBLIQUE = np.array([[-1.8, 0.25, 0.5, 30.0], [-0.3, -1.9, 0.4, 12.0], [0.25, 0.2, 3.1, -44.0], [0.0, 0.0, 0.0, 1.0]])


def modality(spec: TaskSpec, name: str) -> Modality:
    return spec.modalities[spec.modality_names.index(name)]


def orthogonal(affine: Array) -> Array:
    """The nearest affine with axes at right angles, right-handed, of the same spacing."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    result = affine.copy()
    result[:3, :3] = left @ right * spacing
    return result


def ramp(shape: tuple[int, int, int] = (9, 7, 5), affine: Array = OBLIQUE) -> Volume:
    """Every voxel another value; oblique, anisotropic."""
    return Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), orthogonal(affine))


def images(spec: TaskSpec, volume: Volume | None = None, name: str = "ct") -> list[Dataset]:
    return write_series(volume or ramp(), modality(spec, name), "case", 1, "series")


def enhanced(series: list[Dataset]) -> Dataset:
    """The same slices as one multi-frame image, frames in another order."""
    frames = [series[index] for index in (2, 0, 4, 1, 3)]
    image = copy.deepcopy(frames[0])
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(image, keyword)
    image.NumberOfFrames = len(frames)
    image.PixelData = b"".join(frame.PixelData for frame in frames)
    shared, measures, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = frames[0].PixelSpacing
    orientation.ImageOrientationPatient = frames[0].ImageOrientationPatient
    values.RescaleSlope, values.RescaleIntercept = frames[0].RescaleSlope, frames[0].RescaleIntercept
    values.RescaleType = "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [values]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = []
    for frame in frames:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = frame.ImagePositionPatient
        group.PlanePositionSequence = [position]
        image.PerFrameFunctionalGroupsSequence.append(group)
    return image


def again(series: list[Dataset], shift: float = 0.0, **attributes: object) -> list[Dataset]:
    """The same images once more in the series, moved along by a part of the step, with other attributes."""
    places = [np.array(image.ImagePositionPatient, dtype=float) for image in series]
    result = []
    for image, place in zip(series, places, strict=True):
        one = copy.deepcopy(image)
        one.SOPInstanceUID = generate_uid()
        one.ImagePositionPatient = [f"{value:.6f}" for value in place + shift * (places[1] - places[0])]
        for keyword, value in attributes.items():
            setattr(one, keyword, value)
        result.append(one)
    return result


def tell(series: list[Dataset], **attributes: object) -> list[Dataset]:
    for image in series:
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
    return series


Points = list[tuple[float, float]]


def structure_set(
    grid: Grid, regions: dict[str, list[tuple[Points, float]]], kind: str = "CLOSED_PLANAR", instance: str = "1.2.3"
) -> Dataset:
    """Contours given in voxels (column, row) and slice; a name may be followed by `/` and anything, to be repeated."""
    file, reference, study, series = Dataset(), Dataset(), Dataset(), Dataset()
    file.Modality, file.SOPInstanceUID = "RTSTRUCT", instance
    file.StructureSetDate, file.StructureSetTime = "20240201", "120000"
    series.SeriesInstanceUID, reference.FrameOfReferenceUID = "1.2.4", "1.2.5"
    study.RTReferencedSeriesSequence, reference.RTReferencedStudySequence = [series], [study]
    file.ReferencedFrameOfReferenceSequence = [reference]
    file.StructureSetROISequence, file.ROIContourSequence = [], []
    to_mm = TO_RAS @ grid.affine
    for number, (name, contours) in enumerate(regions.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name.split("/")[0]
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points, plane in contours:
            contour = Dataset()
            contour.ContourGeometricType = kind
            index = np.array([(column, row, plane) for column, row in points])
            places = index @ to_mm[:3, :3].T + to_mm[:3, 3]
            contour.ContourData = [f"{value:.6f}"[:16] for value in places.ravel()]
            drawn.ContourSequence.append(contour)
        file.StructureSetROISequence.append(roi)
        file.ROIContourSequence.append(drawn)
    return file
