"""The ledger is an index: whatever happens to it, the labels are the truth, and it is made anew from them."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from maml_app.cases.history import Decision, Entry, State, now
from maml_app.cases.spec import TaskSpec
from maml_app.errors import CaseError, StudiesError
from maml_app.imaging.files import read_grid, read_label, write_label
from maml_app.stores.folder import FolderStore
from maml_app.stores.ledger import LEDGER, MIGRATIONS, Ledger
from tests.builders import keep

CASE = "phantom_004"


@pytest.fixture
def store(studies: Path, spec: TaskSpec, tmp_path: Path) -> FolderStore:
    return FolderStore(studies, spec, tmp_path / "state")


def save(store: FolderStore, tmp_path: Path, size: int, **told: Any) -> str:
    grid = read_grid(store.case(CASE).images["ct"])
    label = read_label(store.case("phantom_000").labels[0].path).voxels * 0
    label[:size, 3:5, 1:3] = 2
    path = tmp_path / "sent.nii.gz"
    write_label(path, label, grid.affine)
    return keep(store, CASE, path, **told).id


def decide(store: FolderStore, label: str, state: State) -> None:
    store.decide(Decision(case=CASE, label=label, state=state, by="rita", at=now(), comment="seen"))


def settle(root: Path) -> None:
    """Let everything below a folder be of yesterday, so that its times say something."""
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (time.time() - 86_400,) * 2)


def test_a_ledger_made_anew_equals_the_one_that_was_lost(
    store: FolderStore, studies: Path, spec: TaskSpec, tmp_path: Path
) -> None:
    for size in (2, 3, 4):
        save(store, tmp_path, size, author=f"reader {size}", comment="é, 漢")
    save(store, tmp_path, 5, tag="original")
    decide(store, "final-0002", State.REVIEWED)
    decide(store, "final-0003", State.REJECTED)
    before = store.histories()
    anew = FolderStore(studies, spec, tmp_path / "another").histories()
    assert anew == before
    assert [found.state for found in anew[CASE]] == [State.FINAL, State.REVIEWED, State.REJECTED, State.PROPOSAL]
    assert FolderStore(studies, spec).histories() == before  # and without a place of its own


def test_it_is_read_again_only_where_something_changed(
    store: FolderStore, studies: Path, spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, tmp_path, 2)
    settle(store.label_root)
    assert len(store.histories()) == 1
    monkeypatch.setattr("maml_app.stores.label_folder.LabelFolder._read", None)  # nothing is to be read
    assert len(store.histories()) == 1
    assert len(FolderStore(studies, spec, tmp_path / "state").cases()) == 5


def test_what_other_programs_take_away_or_put_there_is_told(store: FolderStore, tmp_path: Path) -> None:
    save(store, tmp_path, 2, author="anna")
    save(store, tmp_path, 3, author="anna")
    folder = store.label_root / CASE
    (folder / "final-0002.nii.gz").rename(tmp_path / "taken.nii.gz")
    assert [found.state for found in store.history(CASE)] == [State.FINAL, State.GONE]
    newest = store.case(CASE).label
    assert newest is not None
    assert newest.id == "final-0001"
    assert save(store, tmp_path, 4) == "final-0003"  # its number is not given again
    (tmp_path / "taken.nii.gz").rename(folder / "final-0002.nii.gz")
    assert [found.state for found in store.history(CASE)] == [State.FINAL, State.FINAL, State.FINAL]
    (folder / "final-0009.nii.gz").write_bytes((folder / "final-0001.nii.gz").read_bytes())  # a copy by hand
    copy = store.history(CASE)[-1].entry
    assert (copy.label, copy.version, copy.author) == ("final-0009", 9, "anna")


def test_labels_of_an_older_version_have_a_history_too(store: FolderStore) -> None:
    folder = store.label_root / CASE
    folder.mkdir(parents=True)
    truth = read_label(store.case("phantom_000").labels[0].path)
    write_label(folder / "final-0001.nii.gz", truth.voxels, truth.affine)
    beside = '{"saved": "2026-03-01T10:00:00+00:00", "info": {"author": "otto"}, "volume_ml": {"lesion": 2.5}}'
    (folder / "final-0001.json").write_text(beside)
    write_label(folder / "final-0002.nii.gz", truth.voxels, truth.affine)
    (folder / "final-0002.json").write_text("damaged")
    first, second = store.history(CASE)
    assert (first.entry.author, first.entry.saved.year, first.entry.volume_ml) == ("otto", 2026, {"lesion": 2.5})
    assert (second.entry.author, second.entry.saved.year) == ("", now().year)


def test_a_damaged_ledger_is_put_aside_and_made_anew(
    store: FolderStore, studies: Path, spec: TaskSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, tmp_path, 2, author="anna")
    before = store.histories()
    file = tmp_path / "state" / LEDGER
    for ending in ("-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    file.write_bytes(b"this is no database" * 100)
    assert FolderStore(studies, spec, tmp_path / "state").histories() == before
    assert "damaged" in caplog.text
    assert len(list(file.parent.glob("*.damaged-*"))) == 1


def test_a_ledger_of_a_newer_version_is_left_alone(studies: Path, spec: TaskSpec, tmp_path: Path) -> None:
    Ledger(tmp_path / "state" / LEDGER).stamps()
    with sqlite3.connect(tmp_path / "state" / LEDGER) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(StudiesError, match=r"made by a newer version of maml_app \(form 3, this one knows 2\)"):
        FolderStore(studies, spec, tmp_path / "state").cases()


def test_labels_of_an_older_ledger_whose_record_was_not_read_are_asked_again(tmp_path: Path) -> None:
    file, told = tmp_path / LEDGER, Entry(case="a", label="final-0001", version=1, author="anna", content="abc")
    with sqlite3.connect(file) as database:
        database.executescript(MIGRATIONS[0] + "PRAGMA user_version = 1;")
        for label, content in (("final-0001", ""), ("final-0002", "def")):
            entry = told.model_copy(update={"label": label, "content": content, "author": ""})
            database.execute(
                "INSERT INTO entries (case_name, label, content) VALUES ('a', ?, ?)", [label, entry.model_dump_json()]
            )
        database.execute("INSERT INTO cases VALUES ('a', 'seen')")
    database.close()
    ledger = Ledger(file)
    assert ledger.stamp("a") == ""
    second = told.model_copy(update={"label": "final-0002"})
    ledger.write("a", "anew", {"final-0001": told, "final-0002": second}, {})
    assert [found.entry.author for found in ledger.history("a")] == ["anna", ""]


def test_where_it_cannot_be_kept_the_labels_are_read_at_each_start(
    studies: Path, spec: TaskSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    store = FolderStore(studies, spec, tmp_path / "state")
    assert save(store, tmp_path, 2, author="anna") == "final-0001"
    assert store.history(CASE)[0].entry.author == "anna"
    assert "the ledger cannot be kept there" in caplog.text


def test_nothing_in_it_is_ever_changed_or_deleted(store: FolderStore, tmp_path: Path) -> None:
    save(store, tmp_path, 2)
    decide(store, "final-0001", State.REVIEWED)
    store.histories()
    database = sqlite3.connect(tmp_path / "state" / LEDGER)
    for table in ("entries", "decisions"):
        for change in (f"DELETE FROM {table}", f"UPDATE {table} SET content = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="stay"):
                database.execute(change)
    database.close()


def test_a_decision_needs_a_label_and_a_damaged_one_is_passed_over(
    store: FolderStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, tmp_path, 2)
    with pytest.raises(CaseError, match=r"expected a label of \['final-0001'\], got 'final-0002'"):
        decide(store, "final-0002", State.REVIEWED)
    decide(store, "final-0001", State.REJECTED)
    (store.label_root / CASE / "decision-0002.json").write_text("{")
    assert [found.state for found in store.history(CASE)] == [State.REJECTED]
    assert "no decision that can be read" in caplog.text
    decide(store, "final-0001", State.REVIEWED)
    assert [found.state for found in store.history(CASE)] == [State.REVIEWED]


def test_a_clock_that_was_set_back_changes_no_order(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, tmp_path, 2)
    monkeypatch.setattr("maml_app.stores.folder.now", lambda: now().replace(year=2001))
    assert save(store, tmp_path, 3) == "final-0002"
    newest = store.case(CASE).label
    assert newest is not None
    assert newest.id == "final-0002"
    assert [found.entry.version for found in store.history(CASE)] == [1, 2]


def test_an_entry_reads_what_a_newer_version_wrote() -> None:
    entry = Entry.model_validate_json('{"case": "A", "label": "final-0001", "version": 1, "mood": "good"}')
    assert entry.first_state == State.FINAL
