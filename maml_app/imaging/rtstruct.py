"""Contours of an RT Structure Set (PS3.3 A.19) as masks on the series they were drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from skimage.measure import grid_points_in_poly

from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError
from maml_app.imaging.drawing import Origin
from maml_app.imaging.lenient import lenient
from maml_app.imaging.planes import TO_RAS
from maml_app.imaging.seg_info import written
from maml_app.imaging.seg_read import gaps
from maml_app.imaging.volume import Array, Grid

OFF_SLICE = 0.3  # part of the slice distance by which a contour may miss the plane of a slice
COPY = 0.98  # of the voxels of two contours are shared: one is a copy of the other
XOR = ("CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")  # the standard's term, and how it is mistyped


@dataclass(frozen=True, eq=False)
class Contour:
    """One contour: its geometric type and its points (N, 3), DICOM patient mm."""

    kind: str
    points: Array


class StructureSet:
    """The regions of a structure set. Two of one name are one region; each is judged only when it is asked for.

    Raises:
        LabelError: the object is no structure set.
    """

    def __init__(self, file: Dataset) -> None:
        where = f"RTSTRUCT {file.get('SOPInstanceUID', '(no UID)')}"
        if str(file.get("Modality", "")) != "RTSTRUCT":
            raise LabelError(f"{where}: expected Modality RTSTRUCT, got {file.get('Modality') or 'none'}")
        with lenient():
            self.origin = _origin(file)
            rois = {str(roi.get("ROINumber")): roi for roi in file.get("StructureSetROISequence") or []}
            self._drawn: dict[str, list[Dataset]] = {}
            self._frames: dict[str, set[str]] = {}
            for drawn in file.get("ROIContourSequence") or []:
                roi = rois.get(str(drawn.get("ReferencedROINumber")), Dataset())
                name = str(roi.get("ROIName", "") or "")
                self._drawn.setdefault(name, []).append(drawn)
                frame = str(roi.get("ReferencedFrameOfReferenceUID", "") or "")
                self._frames.setdefault(name, set()).update({frame} - {""})

    @property
    def regions(self) -> Sequence[str]:
        return list(self._drawn)

    def value_of(self, region: str, spec: TaskSpec) -> int | None:
        return spec.value_of(region)

    def frames(self, region: str) -> set[str]:
        """The FrameOfReferenceUIDs in which a region was drawn, as far as it says so."""
        return self._frames[region]

    def mask(self, region: str, grid: Grid) -> tuple[Array, tuple[str, ...]]:
        """A region on a grid: the union of its ROIs. A voxel is inside if its centre is.

        A contour that lies within another one of its ROI is a hole, and in that an island again; contours that merely
        overlap are united, unless they are CLOSEDPLANAR_XOR (PS3.3 C.8.8.6.3).

        Raises:
            LabelError: contours that are no closed planar ones, that lie between slices or beyond the series, or that
                were drawn on every other slice only.
        """
        where = f"{self.origin.name}: region {region!r}"
        inside = np.zeros(grid.shape, bool)
        for roi in self._drawn[region]:
            planes: dict[int, list[tuple[str, Array]]] = {}
            for contour in _contours(roi, where):
                plane, polygon = _on_plane(contour, grid, where)
                planes.setdefault(plane, []).append((contour.kind, polygon))
            for plane, polygons in planes.items():
                inside[:, :, plane] |= _filled(grid.shape[:2], polygons)
        return inside, gaps(inside, where)


def _origin(file: Dataset) -> Origin:
    frame, series, images = "", [], set()
    for reference in file.get("ReferencedFrameOfReferenceSequence") or []:
        frame = frame or str(reference.get("FrameOfReferenceUID", "") or "")
        for study in reference.get("RTReferencedStudySequence") or []:
            for referred in study.get("RTReferencedSeriesSequence") or []:
                series.append(str(referred.get("SeriesInstanceUID", "") or ""))
    for roi in file.get("ROIContourSequence") or []:
        for contour in roi.get("ContourSequence") or []:
            for image in contour.get("ContourImageSequence") or []:
                images.add(str(image.get("ReferencedSOPInstanceUID", "") or ""))
    listed = tuple(dict.fromkeys(uid for uid in series if uid))
    return Origin("RTSTRUCT", str(file.SOPInstanceUID), written(file), frame, listed, frozenset(images - {""}))


def _contours(roi: Dataset, where: str) -> list[Contour]:
    found = []
    for contour in roi.get("ContourSequence") or []:
        kind = str(contour.get("ContourGeometricType", ""))
        if kind == "POINT":
            continue  # a marker, no area
        if kind not in ("CLOSED_PLANAR", *XOR):
            raise LabelError(f"{where}: expected closed planar contours, got {kind or 'none'}")
        try:
            points = np.array([float(value) for value in contour.get("ContourData") or []])
        except (TypeError, ValueError) as error:
            raise LabelError(f"{where}: expected numbers as ContourData, got: {error}") from None
        if len(points) % 3:
            raise LabelError(f"{where}: expected x, y, z triples, got {len(points)} numbers")
        if len(points) >= 9:  # two points have no area
            found.append(Contour(kind, points.reshape(-1, 3)))
    return found


def _on_plane(contour: Contour, grid: Grid, where: str) -> tuple[int, Array]:
    """The slice that a contour lies on, and the contour there (N, 2), in voxels. Raises LabelError."""
    to_vox = np.linalg.inv(grid.affine) @ TO_RAS
    index = contour.points @ to_vox[:3, :3].T + to_vox[:3, 3]
    plane = round(float(index[:, 2].mean()))
    if np.abs(index[:, 2] - plane).max() > OFF_SLICE:
        raise LabelError(
            f"{where}: expected contours in the planes of the slices, got one at slice {index[:, 2].min():.2f} to "
            f"{index[:, 2].max():.2f}; was it drawn on another series?"
        )
    if not 0 <= plane < grid.shape[2]:
        raise LabelError(
            f"{where}: expected contours inside the series, got one on slice {plane + 1} of {grid.shape[2]}"
        )
    return plane, index[:, :2]


def _filled(shape: tuple[int, int], polygons: Sequence[tuple[str, Array]]) -> Array:
    """Which pixel centres lie inside the contours (N, 2) of one ROI in one plane."""
    drawn = [(kind, np.asarray(grid_points_in_poly(shape, polygon, binarize=True))) for kind, polygon in polygons]
    combined = np.logical_xor.reduce([np.zeros(shape, bool), *(mask for kind, mask in drawn if kind in XOR)])
    distinct: list[Array] = []
    for mask in sorted((mask for kind, mask in drawn if kind not in XOR), key=lambda mask: -int(mask.sum())):
        if not any((mask & other).sum() >= COPY * (mask | other).sum() for other in distinct):
            distinct.append(mask)
    result = np.zeros(shape, bool)
    for place, mask in enumerate(distinct):  # from the largest down: what holds a contour comes before it
        depth = sum(not (mask & ~other).any() for other in distinct[:place])
        result = result & ~mask if depth % 2 else result | mask
    return np.asarray(result | combined)
