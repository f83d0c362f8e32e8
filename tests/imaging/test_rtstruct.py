"""Contours as label maps."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from maml_app.cases.case import FileRef
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.errors import LabelError
from maml_app.imaging.dicom import TO_RAS
from maml_app.imaging.files import read_grid, read_label
from maml_app.imaging.rtstruct import draw_contours, read_rtstruct
from maml_app.imaging.volume import Array, Grid
from maml_app.stores.choice import shipped_tasks
from tests.conftest import real
from tests.imaging.shapes import oblique

BOX = [(2.4, 1.4), (9.6, 1.4), (9.6, 6.6), (2.4, 6.6)]
HOLE = [(4.4, 2.4), (6.6, 2.4), (6.6, 4.6), (4.4, 4.6)]


def structure_set(grid: Grid, regions: dict[str, list[tuple[list[tuple[float, float]], float]]]) -> Dataset:
    """Contours given in voxels (column, row) and slice."""
    file, reference, study, series = Dataset(), Dataset(), Dataset(), Dataset()
    file.Modality, file.SOPInstanceUID = "RTSTRUCT", "1.2.3"
    series.SeriesInstanceUID, reference.FrameOfReferenceUID = "1.2.4", "1.2.5"
    study.RTReferencedSeriesSequence, reference.RTReferencedStudySequence = [series], [study]
    file.ReferencedFrameOfReferenceSequence = [reference]
    file.StructureSetROISequence, file.ROIContourSequence = [], []
    to_mm = TO_RAS @ grid.affine
    for number, (name, contours) in enumerate(regions.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points, plane in contours:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            index = np.array([(column, row, plane) for column, row in points])
            places = index @ to_mm[:3, :3].T + to_mm[:3, 3]
            contour.ContourData = [f"{value:.6f}"[:16] for value in places.ravel()]
            drawn.ContourSequence.append(contour)
        file.StructureSetROISequence.append(roi)
        file.ROIContourSequence.append(drawn)
    return file


def truth(grid: Grid, plane: int, hole: bool) -> Array:
    label = np.zeros(grid.shape, np.uint8)
    label[3:10, 2:7, plane] = 1
    if hole:
        label[5:7, 3:5, plane] = 0
    return label


def test_contours_on_an_oblique_grid_with_a_hole(spec: TaskSpec) -> None:
    grid = oblique((14, 9, 6), (1.2, 1.7, 3.1), seed=4)
    file = structure_set(grid, {"Organ": [(BOX, 2), (HOLE, 2), (BOX, 4)]})
    contours = read_rtstruct(file)
    assert (contours.series, contours.frame) == ("1.2.4", "1.2.5")
    expected = truth(grid, 2, hole=True) + truth(grid, 4, hole=False)
    np.testing.assert_array_equal(draw_contours(contours, grid, spec), expected)


def test_regions_are_chosen_by_name_and_the_later_label_wins(spec: TaskSpec) -> None:
    grid = oblique((14, 9, 6), (1.2, 1.7, 3.1), seed=4)
    contours = read_rtstruct(structure_set(grid, {"GTV_1": [(HOLE, 2)], "organ": [(BOX, 2)], "Couch": [(BOX, 1)]}))
    label = draw_contours(contours, grid, spec, {"gtv*": "lesion"})
    expected = truth(grid, 2, hole=False)
    expected[5:7, 3:5, 2] = 2
    np.testing.assert_array_equal(label, expected)


def test_what_cannot_be_drawn_is_told(spec: TaskSpec) -> None:
    grid = oblique((14, 9, 6), (1.2, 1.7, 3.1), seed=4)
    with pytest.raises(LabelError, match=r"region named like one of \['organ', 'lesion'\], got \['Couch'\].*--region"):
        draw_contours(read_rtstruct(structure_set(grid, {"Couch": [(BOX, 1)]})), grid, spec)
    with pytest.raises(LabelError, match="one region a label, got 'organ' and 'ORGAN'"):
        draw_contours(read_rtstruct(structure_set(grid, {"organ": [(BOX, 1)], "ORGAN": [(BOX, 2)]})), grid, spec)
    with pytest.raises(LabelError, match=r"planes of the slices, got one at slice 1\.50 to 1\.50"):
        draw_contours(read_rtstruct(structure_set(grid, {"organ": [(BOX, 1.5)]})), grid, spec)
    with pytest.raises(LabelError, match="inside the series, got slice 9"):
        draw_contours(read_rtstruct(structure_set(grid, {"organ": [(BOX, 9)]})), grid, spec)
    opened = structure_set(grid, {"organ": [(BOX, 1)]})
    opened.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    with pytest.raises(LabelError, match="closed planar contours, got OPEN_PLANAR"):
        read_rtstruct(opened)
    opened.Modality = "CT"
    with pytest.raises(LabelError, match="expected Modality RTSTRUCT, got CT"):
        read_rtstruct(opened)


@pytest.mark.parametrize(("series", "name"), [("CT", "ct"), ("MR_T1", "mr_t1"), ("PET", "pet")])
def test_real_contours_agree_with_the_reference_masks(series: str, name: str) -> None:
    spec = load_task(shipped_tasks()["sarcoma_pet_ct_mr"])
    contours = read_rtstruct(pydicom.dcmread(real("sts_dicom_rtstruct") / "STS_002" / series / "RS.dcm"))
    grid = read_grid(FileRef(real("sts_native") / "STS_002" / f"{name}.nii.gz"))
    label = draw_contours(contours, grid, spec, {"GTV*": "tumour"})
    expected = read_label(real("sts_native") / "STS_002" / f"label_{name}.nii.gz").voxels
    assert 2 * (label & expected).sum() / (label.sum() + expected.sum()) >= 0.97
