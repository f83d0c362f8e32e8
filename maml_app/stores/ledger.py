"""The ledger: an index of every label and every decision about one, in SQLite.

What it tells is in the label files, or in the archive, and in the files of decisions: they stay the truth, and the
ledger is made anew from them wherever it is lost. So it lies on the server's own disk, where SQLite's locks hold.

Nothing in it is ever changed or deleted (triggers see to that); a label that went away by other means is told as gone.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from maml_app.cases.history import Decision, Entry, Recorded, history
from maml_app.errors import StudiesError

logger = logging.getLogger(__name__)

LEDGER = "ledger.sqlite"  # in a store's folder of this machine
WAIT_S = 10.0  # for another process that writes
MIGRATIONS = [
    """
    CREATE TABLE cases (name TEXT PRIMARY KEY, stamp TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE entries (
        case_name TEXT NOT NULL, label TEXT NOT NULL, content TEXT NOT NULL, gone INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (case_name, label)
    ) WITHOUT ROWID;
    CREATE TABLE decisions (
        case_name TEXT NOT NULL, number INTEGER NOT NULL, content TEXT NOT NULL, PRIMARY KEY (case_name, number)
    ) WITHOUT ROWID;
    CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay'); END;
    CREATE TRIGGER entries_same BEFORE UPDATE OF content ON entries BEGIN SELECT RAISE(ABORT, 'entries stay'); END;
    CREATE TRIGGER decisions_stay BEFORE DELETE ON decisions BEGIN SELECT RAISE(ABORT, 'decisions stay'); END;
    CREATE TRIGGER decisions_same BEFORE UPDATE ON decisions BEGIN SELECT RAISE(ABORT, 'decisions stay'); END;
    """,
    # labels whose record could not be read are asked for it again
    """
    DROP TRIGGER entries_stay;
    DELETE FROM entries WHERE gone = 0 AND json_extract(content, '$.content') = '';
    CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries stay'); END;
    UPDATE cases SET stamp = '';
    """,
]


class Ledger:
    """The index in a file; None: in memory, for those who only read.

    Threads and processes of one machine may use it at a time. It is opened when it is first asked.

    Every method raises StudiesError: it was made by a newer version, or cannot be read or written.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._lock = threading.RLock()
        self._known: dict[str, tuple[str, list[Recorded]]] = {}
        self._connection: sqlite3.Connection | None = None

    @property
    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._opened()
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        if self.file is None:
            return _migrated(_connected(":memory:"), ":memory:")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return _migrated(_connected(str(self.file)), str(self.file))
        except (OSError, sqlite3.OperationalError) as error:
            logger.warning("%s: the ledger cannot be kept there (%s); it is made anew at each start", self.file, error)
        except sqlite3.DatabaseError as error:
            aside = self.file.with_name(f"{self.file.name}.damaged-{time.time_ns()}")
            logger.warning("%s: damaged (%s); moved to %s and made anew from the labels", self.file, error, aside.name)
            try:
                self.file.replace(aside)
                for ending in ("-wal", "-shm"):
                    self.file.with_name(self.file.name + ending).unlink(missing_ok=True)
                return _migrated(_connected(str(self.file)), str(self.file))
            except (OSError, sqlite3.Error) as again:
                logger.warning("%s: cannot be made anew (%s)", self.file, again)
        return _migrated(_connected(":memory:"), ":memory:")

    def stamps(self) -> dict[str, str]:
        """By case, what its labels looked like when they were last read."""
        with self._reading() as database:
            return dict(database.execute("SELECT name, stamp FROM cases"))

    def stamp(self, case: str) -> str | None:
        """As `stamps`, of one case; None if it is not known."""
        with self._reading() as database:
            row = database.execute("SELECT stamp FROM cases WHERE name = ?", [case]).fetchone()
            return str(row[0]) if row else None

    def write(
        self, case: str, stamp: str, entries: Mapping[str, Entry | None], decisions: Mapping[int, Decision]
    ) -> None:
        """Bring a case up to date.

        Args:
            entries: every label that is there by its id; None for one that the ledger knows.
            decisions: every decision by its number.
        """
        told = [(case, label, entry.model_dump_json()) for label, entry in entries.items() if entry is not None]
        decided = [(case, number, decision.model_dump_json()) for number, decision in decisions.items()]
        with self._writing() as database:
            database.executemany("INSERT OR IGNORE INTO entries (case_name, label, content) VALUES (?, ?, ?)", told)
            database.executemany("INSERT OR IGNORE INTO decisions VALUES (?, ?, ?)", decided)
            known = dict(database.execute("SELECT label, gone FROM entries WHERE case_name = ?", [case]))
            gone = {label: label not in entries for label in known}
            changed = [(gone[label], case, label) for label, was in known.items() if was != gone[label]]
            database.executemany("UPDATE entries SET gone = ? WHERE case_name = ? AND label = ?", changed)
            database.execute("INSERT OR REPLACE INTO cases VALUES (?, ?)", [case, stamp])
            self._known.pop(case, None)

    def history(self, case: str) -> list[Recorded]:
        """Every label of a case with what was decided about it, oldest first."""
        stamp = self.stamp(case)
        return [] if stamp is None else self._of(case, stamp)

    def histories(self) -> dict[str, list[Recorded]]:
        """As `history`, of all cases."""
        with self._lock:
            return {case: self._of(case, stamp) for case, stamp in self.stamps().items()}

    def copy(self, file: Path) -> None:
        """Write a copy to a file, while others may go on writing."""
        with self._reading() as database, closing(sqlite3.connect(file)) as target:
            database.backup(target)

    def _of(self, case: str, stamp: str) -> list[Recorded]:
        kept = self._known.get(case)
        if kept and kept[0] == stamp and stamp:
            return kept[1]
        with self._reading() as database:
            rows = database.execute("SELECT label, content, gone FROM entries WHERE case_name = ?", [case]).fetchall()
            decided = database.execute(
                "SELECT content FROM decisions WHERE case_name = ? ORDER BY number", [case]
            ).fetchall()
        entries = [Entry.model_validate_json(content) for _, content, _ in rows]
        decisions = [Decision.model_validate_json(content) for (content,) in decided]
        found = history(entries, decisions, [label for label, _, gone in rows if gone])
        self._known[case] = (stamp, found)
        return found

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._database
            except (sqlite3.Error, ValidationError) as error:
                raise StudiesError(
                    f"{self.file}: the ledger cannot be read ({error}); stop the server and delete it: it is made anew "
                    "from the labels"
                ) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise StudiesError(f"{self.file}: the ledger cannot be written ({error}); is the disk full?") from None


def _connected(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def _migrated(database: sqlite3.Connection, name: str) -> sqlite3.Connection:
    database.execute("BEGIN IMMEDIATE")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        database.execute("ROLLBACK")
        database.close()
        raise StudiesError(
            f"{name}: the ledger was made by a newer version of maml_app (form {version}, this one knows "
            f"{len(MIGRATIONS)}); update it, or delete the file: it is made anew from the labels"
        )
    for step in MIGRATIONS[version:]:
        for statement in _statements(step):
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    database.execute("COMMIT")
    if version:
        damaged = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damaged != "ok":
            database.close()
            raise sqlite3.DatabaseError(damaged)
    return database


def _statements(script: str) -> Sequence[str]:
    """The statements of a script, each whole."""
    found, so_far = [], ""
    for piece in script.split(";"):
        so_far += f"{piece};"
        if sqlite3.complete_statement(so_far):
            found.append(so_far)
            so_far = ""
    return found
