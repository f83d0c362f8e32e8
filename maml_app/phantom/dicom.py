"""The phantom as DICOM studies: what a PACS would hold, its nuisances included.

Each modality is a series on its own oblique grid, all of one frame of reference. Every study also holds a
localizer, and the second one a derived copy of its first series. PET is stored in Bq/ml, as scanners do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from maml_app.cases.series import DICOM_MODALITY
from maml_app.cases.spec import Modality, TaskSpec
from maml_app.imaging.dicom import TO_RAS, stack
from maml_app.imaging.geometry import resample_label
from maml_app.imaging.seg import Provenance, write_seg
from maml_app.imaging.volume import Array, Grid, Volume
from maml_app.phantom.scene import PhantomCase, make_case

STORAGE = {
    "CT": UID("1.2.840.10008.5.1.4.1.1.2"),
    "PET": UID("1.2.840.10008.5.1.4.1.1.128"),
    "MR": UID("1.2.840.10008.5.1.4.1.1.4"),
}
WEIGHT_KG, DOSE_BQ, HALF_LIFE_S, ELAPSED_S = 70.0, 350e6, 6586.2, 3600.0


@dataclass(frozen=True)
class DicomStudy:
    """A study: its id, its series by modality name, further series, and a SEG of the truth (or None)."""

    id: str
    series: dict[str, list[Dataset]]
    extra: list[list[Dataset]]
    label: Dataset | None

    def instances(self) -> Iterator[Dataset]:
        for images in [*self.series.values(), *self.extra]:
            yield from images
        if self.label is not None:
            yield self.label


def _uid(*parts: object) -> UID:
    return generate_uid(entropy_srcs=[str(part) for part in ("maml phantom", *parts)])


def write_series(
    volume: Volume, modality: Modality, case: str, number: int, description: str, kind: str = "ORIGINAL\\PRIMARY\\AXIAL"
) -> list[Dataset]:
    """A volume as single-frame DICOM images, one a voxel plane of the third axis. Values are rounded as stored."""
    affine = TO_RAS @ volume.affine
    spacing = volume.grid.spacing_mm
    values, slope, offset = _stored(volume.voxels, modality)
    images = []
    for plane in range(volume.voxels.shape[2]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.is_little_endian, image.is_implicit_VR = True, False
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = STORAGE[modality.kind]
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = _uid(case, number, plane)
        image.StudyInstanceUID, image.SeriesInstanceUID = _uid(case), _uid(case, number)
        image.FrameOfReferenceUID = _uid(case, "frame")
        image.PatientID, image.PatientName = case, f"{case}^Phantom"
        image.PatientBirthDate, image.PatientSex, image.PatientWeight = "", "O", WEIGHT_KG
        image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "", ""
        image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20240102"
        image.StudyTime, image.SeriesTime, image.AcquisitionTime, image.ContentTime = "100000", *["110000"] * 3
        image.Modality, image.SeriesNumber, image.InstanceNumber = DICOM_MODALITY[modality.kind], number, plane + 1
        image.SeriesDescription, image.StudyDescription, image.ImageType = description, "Phantom", kind.split("\\")
        image.Manufacturer, image.PositionReferenceIndicator, image.PatientPosition = "MAML phantom", "", "HFS"
        image.ImageOrientationPatient = [
            f"{cosine:.10f}" for axis in (0, 1) for cosine in affine[:3, axis] / spacing[axis]
        ]
        image.ImagePositionPatient = [f"{place:.8f}" for place in affine[:3, 2] * plane + affine[:3, 3]]
        image.PixelSpacing = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"]
        image.SliceThickness = f"{spacing[2]:.8f}"
        image.Columns, image.Rows = volume.voxels.shape[:2]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelRepresentation = 1
        image.RescaleSlope, image.RescaleIntercept = f"{slope:.8g}", f"{offset:.8g}"
        image.PixelData = np.ascontiguousarray(values[:, :, plane].T).astype("<i2").tobytes()
        _by_kind(image, modality)
        images.append(image)
    return images


def _stored(voxels: Array, modality: Modality) -> tuple[Array, float, float]:
    """Integers to store, and the slope and offset that lead back to the modality's values."""
    if modality.kind == "CT":
        return np.rint(voxels) + 1024, 1.0, -1024.0
    if modality.kind == "MR":
        return np.rint(voxels), 1.0, 0.0
    factor = WEIGHT_KG * 1000 / (DOSE_BQ * 2 ** (-ELAPSED_S / HALF_LIFE_S))
    slope = float(f"{max(float(voxels.max()), 1e-3) / factor / 32000:.8g}")
    return np.rint(voxels / factor / slope), slope, 0.0


def _by_kind(image: Dataset, modality: Modality) -> None:
    if modality.kind == "PET":
        info = Dataset()
        info.RadionuclideTotalDose, info.RadionuclideHalfLife = DOSE_BQ, HALF_LIFE_S
        info.RadiopharmaceuticalStartTime, info.Radiopharmaceutical = "100000", "FDG"
        image.RadiopharmaceuticalInformationSequence = [info]
        image.Units, image.DecayCorrection, image.CorrectedImage = "BQML", "START", ["DECY", "ATTN", "SCAT"]
    elif modality.kind == "CT":
        image.KVP, image.AcquisitionNumber = 120, 1
    else:
        image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "SE", "NONE", ""
        image.MRAcquisitionType, image.EchoTime, image.RepetitionTime = "2D", 10, 500
        image.EchoTrainLength = 1
    if modality.dicom.contrast == "required":
        image.ContrastBolusAgent = "Gadobutrol"


def _localizer(case: str, number: int, modality: Modality) -> list[Dataset]:
    affine = np.array([[0, 0, 5.0, -5], [-4.0, 0, 0, 60], [0, -4.0, 0, 60], [0, 0, 0, 1]])
    blank = Volume(np.zeros((32, 32, 3), np.float32), affine)
    return write_series(blank, modality, case, number, "3-plane localizer", "ORIGINAL\\PRIMARY\\LOCALIZER")


def make_study(
    spec: TaskSpec, seed: int, number: int, size: int = 48, missing: Sequence[str] = (), labelled: bool = False
) -> tuple[DicomStudy, PhantomCase]:
    """One phantom case as DICOM, and as it is. With `labelled`, a SEG of the truth drawn on its reference series."""
    case = make_case(spec, seed, number, size, missing)
    series: dict[str, list[Dataset]] = {}
    for place, modality in enumerate(spec.modalities):
        if modality.name in case.images:
            words = modality.dicom.words or (modality.name,)
            series[modality.name] = write_series(
                case.images[modality.name], modality, f"{case.id}-{seed}", place + 2, words[0]
            )
    first = next(name for name in spec.modality_names if name in series)
    modality = spec.modalities[spec.modality_names.index(first)]
    extra = [_localizer(f"{case.id}-{seed}", 1, modality)]
    if number == 1:
        words = modality.dicom.words or (modality.name,)
        extra.append(
            write_series(case.images[first], modality, f"{case.id}-{seed}", 50, words[0], "DERIVED\\SECONDARY\\AXIAL")
        )
    label = None
    if labelled:
        frame = next(name for name in spec.preference if name in series)
        order = stack(series[frame])
        truth = truth_on(case, order.grid)
        label = write_seg(truth, order, series[frame], spec, Provenance("MANUAL", description="phantom truth"))
    return DicomStudy(f"{case.id}-{seed}", series, extra, label), case


def truth_on(case: PhantomCase, grid: Grid) -> Array:
    """The true label map on another grid."""
    return resample_label(case.label.voxels, case.label.grid, grid)


def write_studies(
    folder: Path, spec: TaskSpec, count: int, seed: int, size: int = 48, labelled: int | None = None
) -> list[Path]:
    """Write studies as `STUDY/NNNN.dcm`; every fourth lacks one modality. Arguments as `write_cases`."""
    written = []
    for number in range(count):
        lacks = spec.modality_names[number // 4 % len(spec.modalities)]
        missing = [lacks] if number % 4 == 3 and len(spec.modalities) > 1 else []
        study, _ = make_study(spec, seed, number, size, missing, labelled is None or number < labelled)
        home = folder / study.id
        home.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(study.instances()):
            image.save_as(home / f"{index:04d}.dcm", write_like_original=False)
        written.append(home)
    return written
