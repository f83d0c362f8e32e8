"""Contours of an RT Structure Set (PS3.3 A.19) as a label map on the series they were drawn on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
from pydicom.dataset import Dataset
from skimage.measure import grid_points_in_poly

from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.dicom import TO_RAS
from maml_app.imaging.volume import Array, Grid

OFF_SLICE = 0.3  # part of the slice distance by which a contour may miss the plane of a slice


@dataclass(frozen=True)
class Contours:
    """A structure set: region name -> closed planar contours (N, 3), DICOM patient mm; and what it was drawn on."""

    instance: str
    series: str
    frame: str
    regions: Mapping[str, tuple[Array, ...]]


def read_rtstruct(file: Dataset) -> Contours:
    """Take the contours out of a structure set.

    Raises:
        LabelError: it is none, or holds contours that are no closed planar ones.
    """
    where = f"RTSTRUCT {file.get('SOPInstanceUID', '(no UID)')}"
    if str(file.get("Modality", "")) != "RTSTRUCT":
        raise LabelError(f"{where}: expected Modality RTSTRUCT, got {file.get('Modality') or 'none'}")
    frame, series = "", ""
    for reference in file.get("ReferencedFrameOfReferenceSequence") or []:
        frame = str(reference.get("FrameOfReferenceUID", ""))
        for study in reference.get("RTReferencedStudySequence") or []:
            for one in study.get("RTReferencedSeriesSequence") or []:
                series = series or str(one.get("SeriesInstanceUID", ""))
    names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in file.get("StructureSetROISequence") or []}
    regions: dict[str, list[Array]] = {}
    for roi in file.get("ROIContourSequence") or []:
        name = names.get(int(roi.ReferencedROINumber), "")
        for contour in roi.get("ContourSequence") or []:
            kind = str(contour.get("ContourGeometricType", ""))
            if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                if kind == "POINT":
                    continue  # a marker, no area
                raise LabelError(f"{where}: region {name!r}: expected closed planar contours, got {kind or 'none'}")
            points = np.array([float(value) for value in contour.get("ContourData") or []])
            if len(points) % 3:
                raise LabelError(f"{where}: region {name!r}: expected x, y, z triples, got {len(points)} numbers")
            if len(points) >= 9:
                regions.setdefault(name, []).append(points.reshape(-1, 3))
    return Contours(str(file.SOPInstanceUID), series, frame, {name: tuple(found) for name, found in regions.items()})


def _renamed(region: str, names: Mapping[str, str]) -> str:
    for pattern, name in names.items():
        if fnmatch(region.lower(), pattern.lower()):
            return name
    return region


def draw_contours(contours: Contours, grid: Grid, spec: TaskSpec, names: Mapping[str, str] | None = None) -> Array:
    """The label map (X, Y, Z), uint8, of the regions that are labels of the task.

    A voxel belongs to a region if its centre lies inside an odd number of the region's contours in its slice, so that
    contours inside contours are holes. Where regions overlap, the label that the task lists later wins.

    Args:
        names: region name -> label name, for regions that are called otherwise than the task's labels; `*` in a
            region name stands for anything.

    Raises:
        LabelError: no region is a label of the task, two are the same one, or a contour lies between two slices.
    """
    where = f"RTSTRUCT {contours.instance}"
    chosen: dict[int, str] = {}
    for region in contours.regions:
        value = spec.value_of(_renamed(region, names or {}))
        if value is None:
            continue
        if value in chosen:
            raise LabelError(f"{where}: expected one region a label, got {chosen[value]!r} and {region!r}; name one")
        chosen[value] = region
    if not chosen:
        known = [label.name for label in spec.labels]
        raise LabelError(
            f"{where}: expected a region named like one of {known}, got {sorted(contours.regions)}; "
            "say which is which with --region NAME=LABEL (NAME may hold *)"
        )
    to_vox = np.linalg.inv(grid.affine) @ TO_RAS
    label = np.zeros(grid.shape, np.uint8)
    for value in sorted(chosen):
        inside = np.zeros(grid.shape, bool)
        for points in contours.regions[chosen[value]]:
            index = points @ to_vox[:3, :3].T + to_vox[:3, 3]
            plane = round(float(index[:, 2].mean()))
            if np.abs(index[:, 2] - plane).max() > OFF_SLICE:
                raise LabelError(
                    f"{where}: region {chosen[value]!r}: expected contours in the planes of the slices, got one at "
                    f"slice {index[:, 2].min():.2f} to {index[:, 2].max():.2f}; was it drawn on another series?"
                )
            if not 0 <= plane < grid.shape[2]:
                region = chosen[value]
                raise LabelError(f"{where}: region {region!r}: expected contours inside the series, got slice {plane}")
            inside[:, :, plane] ^= _filled(grid.shape[:2], index[:, :2])
        label[inside] = value
    return label


def _filled(shape: tuple[int, int], polygon: Array) -> Array:
    """Which pixel centres lie inside a polygon (N, 2)."""
    return np.asarray(grid_points_in_poly(shape, polygon, binarize=True))  # type: ignore[no-untyped-call]
