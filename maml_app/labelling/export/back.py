"""The way back: an exported data set's table brings the history of its labels to where the data set is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from maml_app.cases.case import Case
from maml_app.cases.history import FINAL, Decision, Entry, Proposal, State, Told, now
from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.errors import LabelError, MamlError, StudiesError
from maml_app.imaging.labels import read_case_label, volumes_ml
from maml_app.labelling.export.dataset import TABLE, Row
from maml_app.labelling.export.layouts import bids_entities
from maml_app.labelling.incoming import checked_label

TOLERANCE = 0.01  # of a volume: what a label may differ from what the table says of it


def bring_back(table: Path, source: CaseSource, spec: TaskSpec) -> Iterator[tuple[str, str]]:
    """Give labels that came with the images the history that the table of their data set tells of.

    Each becomes a version of its own with author, program, model and seconds as they were; when and as what it was
    saved first is its comment. A label that has a history here keeps it. Yields each case's name and what became of it.

    Raises:
        StudiesError: the table cannot be read, or is none.
    """
    cases = {case.id: case for case in source.cases()}
    for row in _rows(table):
        as_bids = "_".join(bids_entities(row.patient or row.name, row.name))
        case = next((cases[name] for name in (row.name, as_bids, row.case) if name in cases), None)
        if row.left_out or not row.saved:
            continue
        if case is None:
            yield row.name, "not taken: no case of this name"
            continue
        try:
            entry = _take(case, row, source, spec)
        except MamlError as error:
            yield case.id, f"not taken: {error}"
            continue
        yield case.id, f"{entry.label}, by {entry.author or 'someone'}" if entry else "has a history here already"


def _rows(table: Path) -> list[Row]:
    path = table / f"{TABLE}.json" if table.is_dir() else table
    try:
        return TypeAdapter(list[Row]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        said = str(error).splitlines()[0]
        raise StudiesError(
            f"{path}: expected the {TABLE}.json that `labels export` writes beside a data set ({said})"
        ) from None


def _take(case: Case, row: Row, source: CaseSource, spec: TaskSpec) -> Entry | None:
    with source.holding(case.id):
        if any(found.entry.content for found in source.history(case.id)):
            return None
        label = read_case_label(case, spec)
        here, told = volumes_ml(label, spec), json.loads(row.volume_ml)
        if set(here) != set(told) or any(not math.isclose(here[name], told[name], rel_tol=TOLERANCE) for name in here):
            raise LabelError(f"the table tells of a label of {told} ml, this one has {here} ml")
        _, image = checked_label(case, label, spec, (), "")
        comment = f"{row.label} of case {row.case}, saved {row.saved}"
        entry = source.save_label(
            case,
            image,
            label,
            FINAL,
            Told(
                author=row.author,
                client=row.client,
                drawn=row.drawn,
                seconds=row.seconds,
                proposal=Proposal(model=row.model),
                parent=case.label.id if case.label else "",
                comment=comment,
            ),
        )
        if row.state == State.REVIEWED:
            source.decide(
                Decision(case=case.id, label=entry.label, state=State.REVIEWED, at=now(), comment="as in the table")
            )
    return entry
