"""Labels of an archive as DICOM objects in files: the stored SEGs themselves, or structure sets made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from maml_app.cases.case import Case
from maml_app.cases.history import State, now
from maml_app.disk import write_atomically
from maml_app.errors import LabelError, MamlError, StudiesError
from maml_app.imaging.labels import read_stored_label
from maml_app.imaging.lenient import lenient
from maml_app.imaging.rtstruct_write import write_rtstruct
from maml_app.stores.dicomweb import DicomWebStore
from maml_app.stores.examinations import Examination
from maml_app.stores.label_archive import drawn_on

Kind = Literal["seg", "rtstruct"]


def export_objects(store: DicomWebStore, kind: Kind, out_dir: Path, reviewed: bool) -> Iterator[tuple[str, str]]:
    """Write a file for each case's label, and yield the case with what became of it: the file's name, or why none.

    Raises:
        StudiesError: the folder is there already, or cannot be written.
    """
    if out_dir.exists():
        raise StudiesError(f"{out_dir}: expected a folder that is not there yet, so that nothing is overwritten")
    for examination in store.examinations():
        case = store.case_of(examination)
        if not examination.series or case.label is None:
            continue
        try:
            if reviewed and case.label.state != State.REVIEWED:
                raise LabelError(f"{case.label.id} is not reviewed")
            made = _seg(store, examination, case) if kind == "seg" else _structures(store, examination, case)
            path = out_dir / f"{case.id}-{case.label.id}.dcm"
            _write(path, made)
            yield case.id, path.name
        except MamlError as error:
            yield case.id, f"not exported: {error}"
        except OSError as error:
            raise StudiesError(f"{out_dir}: could not be written ({error})") from None


def _write(path: Path, made: Dataset) -> None:
    def fill(part: Path) -> None:
        with lenient():
            made.save_as(part, write_like_original=False)

    write_atomically(path, fill, replace=False)


def _seg(store: DicomWebStore, examination: Examination, case: Case) -> Dataset:
    assert case.label is not None
    info = store.labels.segs(examination)[case.label.id]
    return store.pacs.image(examination.study, info.series, info.instance)


def _structures(store: DicomWebStore, examination: Examination, case: Case) -> Dataset:
    assert case.label is not None
    info = store.labels.segs(examination)[case.label.id]
    label = read_stored_label(case.label, store.spec)
    headers = store.pacs.headers(examination.study, info.refers_to)
    orders = drawn_on(examination, info, headers)
    order = next((order for order in orders if order.grid.same_as(label.grid)), None)
    if order is None:
        raise LabelError(f"series {info.refers_to} changed in the archive since the label was drawn")
    found = next((row.entry for row in store.labels.ledger.history(case.id) if row.entry.label == case.label.id), None)
    return write_rtstruct(label.voxels, order, headers, store.spec, found.saved if found else now())
