"""Contours as masks."""

from __future__ import annotations

import copy
import io
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from maml_app.cases.case import FileRef
from maml_app.cases.spec import TaskSpec, load_task
from maml_app.errors import LabelError
from maml_app.imaging.dicom import stack
from maml_app.imaging.drawing import Piece, label_map, named, newest, wanted
from maml_app.imaging.files import read_grid, read_label
from maml_app.imaging.rtstruct import StructureSet
from maml_app.imaging.rtstruct_write import write_rtstruct
from maml_app.imaging.volume import Array
from maml_app.stores.choice import shipped_tasks
from tests.conftest import real
from tests.imaging.objects import Points, enhanced, images, structure_set
from tests.imaging.shapes import oblique

BOX: Points = [(2.4, 1.4), (9.6, 1.4), (9.6, 6.6), (2.4, 6.6)]  # voxels 3 to 9, 2 to 6
HOLE: Points = [(4.4, 2.4), (6.6, 2.4), (6.6, 4.6), (4.4, 4.6)]  # voxels 5 and 6, 3 and 4
ISLAND: Points = [(4.4, 2.4), (5.6, 2.4), (5.6, 3.6), (4.4, 3.6)]  # voxel 5, 3
LEFT: Points = [(2.4, 1.4), (6.6, 1.4), (6.6, 6.6), (2.4, 6.6)]
RIGHT: Points = [(5.4, 1.4), (9.6, 1.4), (9.6, 6.6), (5.4, 6.6)]  # overlaps LEFT
KEYHOLE: Points = [
    *[(2.4, 1.4), (9.6, 1.4), (9.6, 6.6), (2.4, 6.6), (2.4, 3.0), (4.4, 3.0), (4.4, 4.6), (6.6, 4.6), (6.6, 2.4)],
    *[(4.4, 2.4), (4.4, 3.0), (2.4, 3.0)],
]
GRID = oblique((14, 9, 8), (1.2, 1.7, 3.1), seed=4)


def box(*planes: int, hole: bool = False, island: bool = False) -> Array:
    mask = np.zeros(GRID.shape, bool)
    for plane in planes:
        mask[3:10, 2:7, plane] = True
        if hole:
            mask[5:7, 3:5, plane] = False
        if island:
            mask[5, 3, plane] = True
    return mask


XOR = "CLOSEDPLANAR_XOR"
SHAPES = [
    ("one contour", {"a": [(BOX, 2)]}, "CLOSED_PLANAR", box(2)),
    ("a hole", {"a": [(BOX, 2), (HOLE, 2)]}, "CLOSED_PLANAR", box(2, hole=True)),
    ("a hole, listed first", {"a": [(HOLE, 2), (BOX, 2)]}, "CLOSED_PLANAR", box(2, hole=True)),
    ("an island in a hole", {"a": [(BOX, 2), (HOLE, 2), (ISLAND, 2)]}, "CLOSED_PLANAR", box(2, hole=True, island=True)),
    ("a contour twice", {"a": [(BOX, 2), (BOX, 2)]}, "CLOSED_PLANAR", box(2)),
    ("contours that overlap", {"a": [(LEFT, 2), (RIGHT, 2)]}, "CLOSED_PLANAR", box(2)),
    ("a keyhole", {"a": [(KEYHOLE, 2)]}, "CLOSED_PLANAR", box(2, hole=True)),
    ("exclusive or", {"a": [(BOX, 2), (HOLE, 2)]}, XOR, box(2, hole=True)),
    ("exclusive or of one contour twice", {"a": [(BOX, 2), (BOX, 2), (BOX, 3)]}, XOR, box(3)),
    ("two regions of one name", {"a/1": [(BOX, 2)], "a/2": [(BOX, 2), (BOX, 3)]}, "CLOSED_PLANAR", box(2, 3)),
    ("a hole of another region", {"a/1": [(BOX, 2)], "a/2": [(HOLE, 2)]}, "CLOSED_PLANAR", box(2)),
    ("two points beside", {"a": [(BOX, 2), (BOX[:2], 5)]}, "CLOSED_PLANAR", box(2)),
]


@pytest.mark.parametrize(("regions", "kind", "expected"), [one[1:] for one in SHAPES], ids=[one[0] for one in SHAPES])
def test_contours_on_an_oblique_grid(
    regions: dict[str, list[tuple[Points, float]]], kind: str, expected: Array
) -> None:
    drawn = StructureSet(structure_set(GRID, regions, kind))
    assert drawn.regions == ["a"]
    assert (drawn.origin.series, drawn.origin.frame, drawn.origin.written) == (("1.2.4",), "1.2.5", "20240201120000")
    mask, notes = drawn.mask("a", GRID)
    np.testing.assert_array_equal(mask, expected)
    assert notes == ()


REFUSED = [
    ({"a": [(BOX, 1.5)]}, "CLOSED_PLANAR", r"planes of the slices, got one at slice 1\.50 to 1\.50"),
    ({"a": [(BOX, 9)]}, "CLOSED_PLANAR", "inside the series, got one on slice 10 of"),
    ({"a": [(BOX, 1)]}, "OPEN_PLANAR", "closed planar contours, got OPEN_PLANAR"),
    ({"a": [(BOX, 1), (BOX, 3), (BOX, 5)]}, "CLOSED_PLANAR", "every slice, got it on slices 2, 4, 6 of 8"),
    ({"a": [(BOX, 0), (BOX, 3), (BOX, 6)]}, "CLOSED_PLANAR", "every slice, got it on slices 1, 4, 7 of 8"),
]


@pytest.mark.parametrize(("regions", "kind", "message"), REFUSED)
def test_what_cannot_be_drawn_is_told_and_only_if_it_is_asked_for(
    regions: dict[str, list[tuple[Points, float]]], kind: str, message: str
) -> None:
    file = structure_set(GRID, {"b": [(BOX, 1)]})
    other = structure_set(GRID, regions, kind)
    other.ROIContourSequence[0].ReferencedROINumber = other.StructureSetROISequence[0].ROINumber = 2
    file.ROIContourSequence.append(other.ROIContourSequence[0])
    file.StructureSetROISequence.append(other.StructureSetROISequence[0])
    drawn = StructureSet(file)
    assert drawn.mask("b", GRID)[0].any()
    with pytest.raises(LabelError, match=message):
        drawn.mask("a", GRID)


def test_a_slice_without_a_contour_is_told_and_findings_apart_are_not() -> None:
    one_lacks = StructureSet(structure_set(GRID, {"a": [(BOX, place) for place in (0, 1, 2, 4, 5)]}))
    assert "nothing on slice 4" in one_lacks.mask("a", GRID)[1][0]
    corner = [(9.6, 6.6), (12.6, 6.6), (12.6, 7.6), (9.6, 7.6)]
    apart = StructureSet(structure_set(GRID, {"a": [(BOX, 0), (corner, 3), (BOX, 6)]}))
    assert apart.mask("a", GRID)[1] == ()


def test_what_is_no_structure_set_is_refused() -> None:
    file = structure_set(GRID, {})
    file.Modality = "CT"
    with pytest.raises(LabelError, match="expected Modality RTSTRUCT, got CT"):
        StructureSet(file)


NAMES = [
    ("GTV*", "GTV_1", True),
    ("gtv*", " GTV_1 ", True),
    ("*gtv", "old GTV", True),
    ("GTV", "GTV_1", False),
    ("GTV[1]", "GTV[1]", True),
    ("GTV[1]", "GTV1", False),
    ("GTV?", "GTV1", False),
    ("GTV (old)", "GTV (old)", True),
    ("Опухоль*", "опухоль 1", True),
]


@pytest.mark.parametrize(("pattern", "region", "fits"), NAMES)
def test_names_are_literal_but_for_the_star(pattern: str, region: str, fits: bool) -> None:
    assert named(region, {pattern: "lesion"}) == ("lesion" if fits else "")


def pieces(spec: TaskSpec, names: dict[str, str], *files: Dataset) -> list[Piece]:
    drawn = [StructureSet(file) for file in files]
    return [Piece(one, name, value) for one in drawn for name, value in wanted(one, spec, names).items()]


def test_regions_of_a_label_are_united_and_the_later_label_wins(spec: TaskSpec) -> None:
    regions: dict[str, list[tuple[Points, float]]] = {
        "GTV_1": [(HOLE, 2)],
        "GTV_2": [(HOLE, 4)],
        "organ": [(BOX, 2)],
        "Couch": [(BOX, 1)],
    }
    label, notes = label_map(pieces(spec, {"gtv*": "lesion"}, structure_set(GRID, regions)), GRID, spec)
    expected = box(2).astype(np.uint8)
    expected[5:7, 3:5, 2] = expected[5:7, 3:5, 4] = 2
    np.testing.assert_array_equal(label, expected)
    assert notes == ["4 voxels are of two labels: lesion wins"]


def test_an_empty_label_is_never_made_of_contours(spec: TaskSpec) -> None:
    between = [(4.1, 2.1), (4.4, 2.1), (4.4, 2.4)]
    with pytest.raises(LabelError, match=r"got none: 'organ' of RTSTRUCT 1\.2\.3 holds no voxel"):
        label_map(pieces(spec, {}, structure_set(GRID, {"organ": [(between, 2)]})), GRID, spec)
    some = structure_set(GRID, {"organ": [(between, 2)], "lesion": [(BOX, 2)]})
    assert label_map(pieces(spec, {}, some), GRID, spec)[1] == ["'organ' of RTSTRUCT 1.2.3 holds no voxel"]


def test_of_one_region_in_two_objects_the_newest_is_taken(spec: TaskSpec) -> None:
    old = structure_set(GRID, {"organ": [(BOX, 1)], "lesion": [(HOLE, 1)]}, instance="1.1")
    new = structure_set(GRID, {"ORGAN": [(BOX, 2)]}, instance="1.2")
    new.StructureSetDate = "20240301"
    kept, notes = newest(pieces(spec, {}, new, old))
    assert [(one.region, one.drawing.origin.instance) for one in kept] == [("ORGAN", "1.2"), ("lesion", "1.1")]
    assert notes == [
        "'organ' of RTSTRUCT 1.1 is older and not taken",
        "'lesion' of RTSTRUCT 1.1 is taken from an object that others replace in part",
    ]
    same = copy.deepcopy(new)
    same.SOPInstanceUID = "1.3"
    with pytest.raises(
        LabelError, match=r"got 'ORGAN' of RTSTRUCT 1\.2 and 'ORGAN' of RTSTRUCT 1\.3, both of 20240301"
    ):
        newest(pieces(spec, {}, new, same))


@pytest.mark.parametrize(("series", "name"), [("CT", "ct"), ("MR_T1", "mr_t1"), ("PET", "pet")])
def test_real_contours_agree_with_the_reference_masks(series: str, name: str) -> None:
    spec = load_task(shipped_tasks()["sarcoma_pet_ct_mr"])
    file = pydicom.dcmread(real("sts_dicom_rtstruct") / "STS_002" / series / "RS.dcm")
    grid = read_grid(FileRef(real("sts_native") / "STS_002" / f"{name}.nii.gz"))
    label, _ = label_map(pieces(spec, {"GTV*": "tumour"}, file), grid, spec)
    expected = read_label(real("sts_native") / "STS_002" / f"label_{name}.nii.gz").voxels
    assert 2 * (label & expected).sum() / (label.sum() + expected.sum()) >= 0.97


@pytest.mark.parametrize("whole", [False, True], ids=["images", "one multi-frame image"])
def test_what_is_written_as_contours_is_read_as_the_same_mask(spec: TaskSpec, whole: bool) -> None:
    """Oblique, anisotropic; a hole with an island in it, single voxels, the edge of the image, two findings a slice."""
    series = images(spec)
    order = stack([enhanced(series)] if whole else series)
    headers = [enhanced(series)] if whole else series
    label = np.zeros(order.grid.shape, np.uint8)
    label[1:8, 1:6, 1:3] = 1
    label[3:6, 2:5, 1] = 0
    label[4, 3, 1] = 1
    label[8, 6, 3] = label[0, 0, 3] = label[0:3, 0, 4] = 2
    label[5, 5, 4] = label[6, 4, 4] = 2  # they touch at a corner
    file = write_rtstruct(label, order, headers, spec, datetime(2026, 3, 1, 10, 30, tzinfo=UTC))
    buffer = io.BytesIO()
    file.save_as(buffer, write_like_original=False)
    buffer.seek(0)
    read = pydicom.dcmread(buffer)
    assert read.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3"
    assert (read.StructureSetDate, read.PatientID) == ("20260301", series[0].PatientID)
    structures = StructureSet(read)
    assert list(structures.regions) == ["organ", "lesion"]
    assert structures.origin.series == (series[0].SeriesInstanceUID,)
    for value, name in spec.label_values.items():
        mask, _ = structures.mask(name, order.grid)
        np.testing.assert_array_equal(mask, label == value)
    with pytest.raises(LabelError, match="expected a label of shape"):
        write_rtstruct(label[:-1], order, headers, spec, datetime(2026, 3, 1, tzinfo=UTC))
