"""Notes about a case: merged, whoever writes them at a time, in a folder and beside an archive."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from maml_app.cases.source import CaseSource
from maml_app.cases.spec import TaskSpec
from maml_app.stores.cache import Cache
from maml_app.stores.dicomweb import DicomWebStore
from maml_app.stores.folder import FolderStore
from maml_app.stores.notes import merged
from maml_app.stores.pacs import Pacs

CASE = "phantom_000"


@pytest.fixture(params=["folder", "archive"])
def source(
    request: pytest.FixtureRequest, studies: Path, spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CaseSource:
    if request.param == "folder":
        return FolderStore(studies, spec)
    monkeypatch.setattr(DicomWebStore, "case", lambda self, case_id: SimpleNamespace(id=case_id))
    return DicomWebStore(Pacs("http://127.0.0.1:9/dicom-web"), spec, Cache(tmp_path / "cache"))


def test_notes_written_at_once_are_all_kept(source: CaseSource) -> None:
    writers, notes = 6, 10

    def write(writer: int) -> None:
        for note in range(notes):
            source.update_info(CASE, {f"n{writer}-{note}": note, "strategy": {f"s{writer}-{note}": {"ts": note}}})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    info = source.info(CASE)
    assert len(info.pop("strategy")) == writers * notes
    assert len(info) == writers * notes


@pytest.mark.parametrize(
    ("notes", "newer", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"s": {"x": {"ts": 1, "by": "anna"}, "y": 2}}, {"s": {"x": {"ts": 3}}}, {"s": {"x": {"ts": 3}, "y": 2}}),
        ({"s": "damaged"}, {"s": {"x": 1}}, {"s": {"x": 1}}),
        ({"s": {"x": 1}}, {"s": None}, {"s": None}),
    ],
)
def test_notes_that_hold_several_are_merged_too(
    notes: dict[str, object], newer: dict[str, object], expected: dict[str, object]
) -> None:
    before = repr(notes)
    assert merged(notes, newer) == expected
    assert repr(notes) == before
