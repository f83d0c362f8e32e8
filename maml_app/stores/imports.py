"""Labels that others drew, taken over into an archive's cases: structure sets (RTSTRUCT) and SEGs by other software."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from maml_app.cases.case import FINAL, Case
from maml_app.errors import LabelError, MamlError, StudiesError
from maml_app.imaging.dicom import stack
from maml_app.imaging.files import write_label
from maml_app.imaging.rtstruct import draw_contours, read_rtstruct
from maml_app.imaging.seg import read_seg, seg_info
from maml_app.stores.dicomweb import DicomWebStore


@dataclass(frozen=True)
class Imported:
    """What became of a case: the label stored, or why none was."""

    case: str
    stored: str
    reason: str


def _in_folder(folder: Path) -> list[Dataset]:
    if not folder.is_dir():
        raise StudiesError(f"{folder}: expected a folder of DICOM files, got none")
    found: list[Dataset] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            found.append(pydicom.dcmread(path))
        except (InvalidDicomError, OSError):
            continue  # folders of DICOM hold other files too
    return found


def _in_archive(store: DicomWebStore, study: str) -> list[Dataset]:
    found = []
    for row in store.pacs.series(study):
        if str(row.get("Modality", "")) in ("RTSTRUCT", "SEG"):
            series = str(row.SeriesInstanceUID)
            found += [store.pacs.image(study, series, instance) for instance in store.pacs.instances(study, series)]
    return found


def _refers_to(file: Dataset) -> str:
    """The series that a structure set or SEG by other software was drawn on; '' if it is neither."""
    if file.get("Modality") == "RTSTRUCT":
        return read_rtstruct(file).series
    if file.get("Modality") == "SEG" and not seg_info(file).ours:
        return seg_info(file).refers_to
    return ""


def import_labels(
    store: DicomWebStore, folder: Path | None, names: Mapping[str, str], again: bool = False
) -> Iterator[Imported]:
    """Store one final label a case, from the files in a folder or else in the archive itself.

    Of several, the one drawn on the case's reference series is taken, else on the next in the task's order of
    preference. Cases with a final label are left alone.

    Args:
        names: region or segment name -> label name, as in `draw_contours`.
        again: also for cases that have a label: it becomes a newer version, the old one stays.
    """
    files = _in_folder(folder) if folder else None
    for case in store.cases():
        if case.label is not None and not again:
            yield Imported(case.id, "", f"has {case.label.id} already")
            continue
        try:
            yield _import(store, case, _in_archive(store, case.study) if files is None else files, names)
        except MamlError as error:
            yield Imported(case.id, "", str(error))


def _import(store: DicomWebStore, case: Case, files: list[Dataset], names: Mapping[str, str]) -> Imported:
    drawn_on: dict[str, Dataset] = {}
    for file in files:
        drawn_on.setdefault(_refers_to(file), file)
    for name in store.spec.preference:
        series = case.series.get(name, "-")
        if series not in drawn_on:
            continue
        file = drawn_on[series]
        headers = store.pacs.headers(case.study, series)
        order, frame = stack(headers), str(headers[0].get("FrameOfReferenceUID", ""))
        if file.Modality == "SEG":
            label = read_seg(file, order, store.spec, frame)
        else:
            contours = read_rtstruct(file)
            if contours.frame and contours.frame != frame:
                raise LabelError(
                    f"RTSTRUCT {contours.instance}: expected FrameOfReferenceUID {frame}, got {contours.frame}"
                )
            label = draw_contours(contours, order.grid, store.spec, names)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.nii.gz"
            write_label(path, label, order.grid.affine)
            stored = store.save_label(series, path, FINAL, {"drawn": "MANUAL"})
        return Imported(case.id, stored.id, f"{file.Modality} on {name}")
    return Imported(case.id, "", "no structure set or SEG by other software refers to one of its series")
