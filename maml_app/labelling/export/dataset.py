"""A data set of final labels: which cases, under what names, with a table of where each label comes from."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from maml_app.cases.case import Case
from maml_app.cases.history import Recorded, State
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.disk import workspace, write_text
from maml_app.errors import LabelError, MamlError, StudiesError
from maml_app.imaging.check import inspect
from maml_app.imaging.files import read_grid, read_image, write_image
from maml_app.imaging.geometry import resample
from maml_app.imaging.labels import read_case_label
from maml_app.imaging.volume import Volume

TABLE = "provenance"


@dataclass(frozen=True)
class Wish:
    """What is to be exported.

    Attributes:
        reviewed: only labels that someone approved, and those that came with the images.
        link: hard links to image files instead of copies, where they can be taken as they are.
        anonymous: no names of people in the table.
    """

    reviewed: bool = False
    link: bool = False
    anonymous: bool = False


@dataclass(frozen=True)
class Item:
    """One case with its label, as a layout writes it.

    `name` is a plain name without the patient's; `patient` is told by it too, and the same for all cases of one.
    """

    case: Case
    name: str
    patient: str
    label: Volume
    spec: TaskSpec
    link: bool

    def write_image(self, modality: str, path: Path, on_label: bool = False) -> bool:
        """Write an image as .nii.gz; on the label's grid if a layout asks for one grid a case.

        Returns whether it had to be resampled, linearly.
        """
        ref = self.case.images[modality]
        path.parent.mkdir(parents=True, exist_ok=True)
        resampled = on_label and not read_grid(ref).same_as(self.label.grid)
        if resampled:
            write_image(path, self.on_label(modality))
        elif ref.channel is None and ref.fetch is None and ref.path.name.endswith(".nii.gz"):
            _take(ref.path, path, self.link)
        else:
            write_image(path, read_image(ref))
        return resampled

    def on_label(self, modality: str) -> Volume:
        """An image on the label's grid."""
        image = read_image(self.case.images[modality])
        if image.grid.same_as(self.label.grid):
            return Volume(image.voxels, self.label.affine)
        fill = float(image.voxels.min())
        voxels = resample(torch.from_numpy(image.voxels).float(), image.grid, self.label.grid, fill)
        return Volume(voxels.numpy(), self.label.affine)


def _take(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another disk
            pass
    shutil.copyfile(source, target)


class Layout(Protocol):
    """How a data set lies on disk."""

    whole: bool  # whether every modality must be there
    tests: bool  # whether it has a place for a test set

    def write(self, item: Item, folder: Path) -> list[str]:
        """Write one case. Returns the modalities that were resampled onto the label's grid."""

    def finish(self, names: Sequence[str], tests: Sequence[str], spec: TaskSpec, folder: Path) -> None:
        """Write what describes the whole: the cases to train on, and those of the test set."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a case's label and where it comes from; `left_out` says why it is not in the data set,
    `without` which of its images are not, and why.
    """

    case: str
    name: str
    label: str
    state: str
    patient: str = ""
    held_out: bool = False
    left_out: str = ""
    without: str = ""
    resampled: str = ""
    author: str = ""
    client: str = ""
    saved: str = ""
    parent: str = ""
    model: str = ""
    drawn: str = ""
    seconds: float | None = None
    changed_ml: float | None = None
    volume_ml: str = "{}"
    content: str = ""


def export(source: CaseSource, spec: TaskSpec, layout: Layout, out_dir: Path, wish: Wish) -> list[Row]:
    """Write a data set of all final labels and their images; it is there whole or not at all.

    Raises:
        StudiesError: the folder is there already, or cannot be written; there is nothing to export.
    """
    if out_dir.exists():
        raise StudiesError(f"{out_dir}: expected a folder that is not there yet, so that nothing is overwritten")
    cases = [case for case in source.cases() if case.label is not None]
    histories = source.histories()
    rows: list[Row] = []
    written: dict[str, bool] = {}  # name -> whether it is of the test set
    try:
        with workspace(out_dir.resolve().parent) as work:
            folder = work / "dataset"
            folder.mkdir()
            for case, (name, patient) in zip(cases, _names(cases), strict=True):
                known = {found.entry.label: found for found in histories.get(case.id, [])}
                found = known.get(case.label.id) if case.label else None
                row = replace(_row(case, name, found, wish), patient=patient, held_out=case.held_out)
                try:
                    problems = _check(case, found, spec, layout, wish)
                    row = replace(row, without="; ".join(f"{image}: {why}" for image, why in problems.items()))
                    images = {image: ref for image, ref in case.images.items() if image not in problems}
                    label = read_case_label(case, spec)
                    item = Item(replace(case, images=images), name, patient, label, spec, wish.link)
                    resampled = layout.write(item, folder)
                except MamlError as error:
                    rows.append(replace(row, left_out=str(error)))
                    continue
                rows.append(replace(row, resampled=", ".join(resampled)))
                written[name] = case.held_out
            if not written:
                reasons = "".join(f"\n  {row.case}: {row.left_out}" for row in rows[:5])
                raise StudiesError(f"expected final labels to export, got none that can be{reasons}")
            taught = [name for name, held_out in written.items() if not held_out]
            layout.finish(taught, [name for name in written if name not in taught], spec, folder)
            _table(rows, folder)
            folder.rename(out_dir)
    except OSError as error:
        raise StudiesError(f"{out_dir}: could not be written, nothing was left behind ({error})") from None
    return rows


def _names(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """A case's name in the data set, and its patient's, which other programs can tell from it.

    Ids of an archive are UIDs, and patients may have names that no file tells: they are told in the table alone, or not
    at all.
    """
    visits: dict[str, list[str]] = {}
    for case in cases:
        visits.setdefault(case.patient_id, []).append(case.id)
    numbers = {patient: f"{number:04d}" for number, patient in enumerate(visits, start=1)}
    found = []
    for case in cases:
        number, ids = numbers[case.patient_id], visits[case.patient_id]
        if case.study:
            patient = f"case{number}"
            found.append((f"{patient}_tp{ids.index(case.id) + 1}" if len(ids) > 1 else patient, patient))
        elif case.id.startswith(case.patient_id):
            found.append((case.id, case.patient_id))
        else:
            found.append((case.id, case.id if len(ids) == 1 else f"patient{number}"))
    return found


def _check(case: Case, found: Recorded | None, spec: TaskSpec, layout: Layout, wish: Wish) -> dict[str, str]:
    """Images of the case that cannot be used, and why. Raises LabelError for a case that cannot be in the data set."""
    if wish.reviewed and found is not None and found.state != State.REVIEWED:
        raise LabelError(f"{found.entry.label} is not reviewed")
    if case.held_out and not layout.tests:
        raise LabelError("it is of the test set, for which this layout has no place: whoever trains would train on it")
    problems = dict(inspect(case, spec).left_out)
    missing = [name for name in spec.modality_names if name not in case.images or name in problems]
    if layout.whole and missing:
        said = [f"{name} ({problems[name]})" if name in problems else name for name in missing]
        raise LabelError(f"{', '.join(said)} missing, and this layout needs every modality of every case")
    return problems


def _row(case: Case, name: str, found: Recorded | None, wish: Wish) -> Row:
    label = case.label.id if case.label else ""
    if found is None:
        return Row(case.id, name, label, "came with the images")
    entry = found.entry
    return Row(
        case.id,
        name,
        label,
        found.state.value,
        author="" if wish.anonymous else entry.author,
        client=entry.client,
        saved=entry.saved.isoformat(),
        parent=entry.parent,
        model=entry.proposal.model,
        drawn=entry.drawn,
        seconds=entry.seconds,
        changed_ml=round(sum(change.ml for change in entry.changes.values()), 4) if entry.changes else None,
        volume_ml=json.dumps(dict(entry.volume_ml)),
        content=entry.content,
    )


def _table(rows: Sequence[Row], folder: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(folder / f"{TABLE}.csv", text.getvalue())
    write_json(folder / f"{TABLE}.json", [asdict(row) for row in rows])


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON for people and programs."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
