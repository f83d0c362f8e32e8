"""Labels that others drew, taken over into an archive's cases: structure sets (RTSTRUCT) and SEGs by other software."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from maml_app.cases.case import FINAL, Case
from maml_app.cases.history import Told
from maml_app.cases.series import Series
from maml_app.errors import LabelError, MamlError, ObjectError, StudiesError
from maml_app.imaging.dicom import stack
from maml_app.imaging.drawing import Drawing, DrawnSegments, Piece, label_map, newest, wanted
from maml_app.imaging.lenient import lenient
from maml_app.imaging.planes import Stack
from maml_app.imaging.rtstruct import StructureSet
from maml_app.imaging.seg_info import seg_info
from maml_app.imaging.volume import Volume
from maml_app.stores.dicomweb import DicomWebStore
from maml_app.stores.examinations import Examination


@dataclass(frozen=True)
class Imported:
    """What became of a case, or of an object that could not be read: the label stored, or why none was."""

    case: str
    stored: str
    reason: str


def _drawing(file: Dataset) -> Drawing | None:
    """A structure set or SEG by other software; None if it is neither. Raises LabelError."""
    try:
        if file.get("Modality") == "RTSTRUCT":
            return StructureSet(file)
        if file.get("Modality") == "SEG" and not seg_info(file).ours:
            return DrawnSegments(file)
    except (ObjectError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise LabelError(f"expected a structure set or SEG, got one that cannot be read: {error}") from None
    return None


def _in_folder(folder: Path) -> tuple[list[Drawing], list[Imported]]:
    """What is drawn in the files below a folder, and what became of those that cannot be read."""
    if not folder.is_dir():
        raise StudiesError(f"{folder}: expected a folder of DICOM files, got none")
    found: dict[str, Drawing] = {}
    failed: list[Imported] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with lenient():
                drawing = _drawing(pydicom.dcmread(path))
        except InvalidDicomError:
            continue  # folders of DICOM hold other files too
        except (OSError, EOFError, MamlError, ValueError, TypeError, AttributeError, KeyError) as error:
            failed.append(Imported(str(path), "", f"could not be read: {error}"))
            continue
        if drawing:
            found.setdefault(drawing.origin.instance, drawing)
    return list(found.values()), failed


def _in_archive(store: DicomWebStore, study: str) -> tuple[list[Drawing], list[Imported]]:
    found: list[Drawing] = []
    failed: list[Imported] = []
    for row in store.pacs.series(study):
        if str(row.get("Modality", "") or "") not in ("RTSTRUCT", "SEG"):
            continue
        series = str(row.SeriesInstanceUID)
        try:
            for instance in store.pacs.instances(study, series):
                drawing = _drawing(store.pacs.image(study, series, instance))
                found += [drawing] if drawing else []
        except (ObjectError, LabelError) as error:
            failed.append(Imported(f"series {series}", "", f"could not be read: {error}"))
    return found, failed


def import_labels(
    store: DicomWebStore, folder: Path | None, names: Mapping[str, str], again: bool = False
) -> Iterator[Imported]:
    """Store one final label a case, from the files in a folder or else in the archive itself.

    All objects that were drawn on one series of a case are taken together: on its reference series, else on the next in
    the task's order of preference, else on another series of the case. Cases with a final label are left alone.

    Args:
        names: region or segment name -> label name, for those that are called otherwise than the task's labels; `*`
            stands for anything.
        again: also for cases that have a label: it becomes a newer version, the old one stays.
    """
    files, failed = _in_folder(folder) if folder else ([], [])
    yield from failed
    seen: set[str] = set()
    for examination in store.examinations():
        if not examination.series:
            continue
        case = store.case_of(examination)
        if case.label is not None and not again:
            yield Imported(case.id, "", f"has {case.label.id} already")
            continue
        if not folder:
            files, failed = _in_archive(store, case.study)
            yield from (other for other in failed if other.case not in seen)
            seen |= {other.case for other in failed}
        try:
            yield _Import(store, examination, case).run(files, names)
        except MamlError as error:
            yield Imported(case.id, "", str(error))


class _Import:
    """One case and what is drawn on it."""

    def __init__(self, store: DicomWebStore, examination: Examination, case: Case) -> None:
        self.store = store
        self.examination = examination
        self.case = case
        preferred = {name: examination.series[name] for name in store.spec.preference if name in examination.series}
        others = {
            choice.series.key: choice.series for choice in examination.choices if choice.series.key in case.others
        }
        self.series: dict[str, Series] = {**preferred, **others}
        self._stacks: dict[str, Stack] = {}

    def stack(self, on: str) -> Stack:
        """The slices of an image of the case, by its key in `Case.grids`."""
        if on not in self._stacks:
            series = self.series[on]
            self._stacks[on] = stack(self.store.pacs.headers(self.case.study, series.uid), series.part)
        return self._stacks[on]

    def run(self, files: Sequence[Drawing], names: Mapping[str, str]) -> Imported:
        """Draw and store. Raises MamlError: what is drawn on the case cannot be its label."""
        drawn_on: dict[str, list[Piece]] = {}
        others: list[str] = []
        for drawing in files:
            keys = self._keys(drawing)
            if not keys:
                continue
            regions = wanted(drawing, self.store.spec, names)
            if not regions:
                others += drawing.regions
                continue
            self._check_frame(drawing, list(regions))
            pieces = [Piece(drawing, region, value) for region, value in regions.items()]
            drawn_on.setdefault(self._fitting(pieces, keys), []).extend(pieces)
        if not drawn_on:
            raise LabelError(self._nothing(files, others))
        on = next(key for key in self.series if key in drawn_on)
        pieces, notes = newest(drawn_on[on])
        label, more = label_map(pieces, self.stack(on).grid, self.store.spec)
        notes += [*more, *(f"what is drawn on {key} is not taken" for key in drawn_on if key != on)]
        volume = Volume(label, self.stack(on).grid.affine)
        told = Told(drawn="MANUAL", client="import")
        with self.store.holding(self.case.id):
            stored = self.store.save_label(self.case, on, volume, FINAL, told)
        kinds = sorted({piece.drawing.origin.kind for piece in pieces})
        where = on if on in self.case.images else f"series {on} ({self.series[on].name})"
        return Imported(self.case.id, stored.label, "; ".join([f"{' and '.join(kinds)} on {where}", *notes]))

    def _keys(self, drawing: Drawing) -> list[str]:
        """The images of the case that a drawing may be drawn on, as far as it says so; [] if it is of another case.

        It refers to series (PS3.3 C.12.4), or only to images, or only to a frame of reference.
        """
        origin = drawing.origin
        keys = [key for key, series in self.series.items() if series.uid in origin.series]
        if keys or origin.series or origin.frame not in ("", self.examination.frame):
            if len(keys) < 2 or not origin.images:
                return keys
            named = [key for key in keys if origin.images & set(self.stack(key).instances)]
            return named or keys
        if origin.images:
            return [key for key in self.series if origin.images & set(self.stack(key).instances)]
        return list(self.series) if origin.frame else []

    def _fitting(self, pieces: Sequence[Piece], keys: Sequence[str]) -> str:
        """Of several images that a drawing may be on the first on whose slices it lies."""
        if len(keys) == 1:
            return keys[0]
        errors = []
        for key in keys:
            try:
                label_map(pieces, self.stack(key).grid, self.store.spec)
                return key
            except LabelError as error:
                errors.append(f"{key}: {error}")
        raise LabelError(f"{pieces[0].drawing.origin.name} lies on none of the case's images: {'; '.join(errors)}")

    def _check_frame(self, drawing: Drawing, regions: Sequence[str]) -> None:
        frames = {drawing.origin.frame} - {""}
        if isinstance(drawing, StructureSet):  # a set may hold regions of several frames
            frames = {frame for region in regions for frame in drawing.frames(region)} or frames
        if frames - {self.examination.frame}:
            raise LabelError(
                f"{drawing.origin.name}: expected FrameOfReferenceUID {self.examination.frame}, got "
                f"{', '.join(sorted(frames - {self.examination.frame}))}"
            )

    def _nothing(self, files: Sequence[Drawing], others: Sequence[str]) -> str:
        """Why nothing was found for the case."""
        if others:
            known = [label.name for label in self.store.spec.labels]
            return (
                f"expected a region named like one of {known}, got {sorted(set(others))}; say which is which with "
                "--region NAME=LABEL (NAME may hold *)"
            )
        astray = [
            f"{drawing.origin.name} refers to series {', '.join(drawing.origin.series)}, which is none of it"
            for drawing in files
            if drawing.origin.frame == self.examination.frame and drawing.origin.series
        ]
        return "; ".join(["no structure set or SEG by other software refers to one of its series", *astray])
