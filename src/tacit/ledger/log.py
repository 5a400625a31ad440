"""A transparency log in one SQLite file: entries, and the hashes of their Merkle tree."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tacit.errors import CheckpointError, InputError
from tacit.ledger import merkle
from tacit.ledger.note import Checkpoint

MOST_ENTRY = 65_535
_TABLES = """
CREATE TABLE IF NOT EXISTS entries (place INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER NOT NULL, place INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
"""


class Log:
    """An append-only list of entries of at most 65,535 bytes, durable once ``append`` returns.

    Entries and the tree's hashes are written in one transaction. May be used from many threads, and
    is written by one process at a time, which has opened it once.

    Args:
        path: of the file; made where there is none.
        origin: name of the log, in its checkpoints.
        read_only: of a log that is there, which nothing is written to, nor beside it.

    Raises:
        CheckpointError: the file is no log, or cannot be written.
        InputError: it is open for writing elsewhere.
    """

    def __init__(self, path: Path, origin: str, *, read_only: bool = False) -> None:
        self.path, self.origin = path, origin
        self._lock = threading.RLock()
        with self._told(), ExitStack() as files:
            if not read_only:
                files.enter_context(closing(hold(path)))
            where = _to_read(path) if read_only else str(path)
            self._db = sqlite3.connect(
                where, uri=read_only, check_same_thread=False, isolation_level=None
            )
            files.enter_context(closing(self._db))
            if read_only:
                self._db.execute("BEGIN")  # all reads are of one moment
            else:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_TABLES)
            self._files = files.pop_all()

    def __len__(self) -> int:
        with self._told():
            (last,) = self._db.execute("SELECT max(place) FROM entries").fetchone()
        return 0 if last is None else int(last) + 1

    def __getitem__(self, index: int) -> bytes:
        with self._told():
            row = self._db.execute("SELECT entry FROM entries WHERE place = ?", (index,)).fetchone()
        if row is None:
            raise InputError(f"entry: {index} was given; the log has {len(self)}, from 0")
        return bytes(row[0])

    def __iter__(self) -> Iterator[bytes]:
        with self._told():
            rows = self._db.execute("SELECT entry FROM entries ORDER BY place").fetchall()
        return (bytes(entry) for (entry,) in rows)

    def append(self, entries: Sequence[bytes]) -> int:
        """Add entries at the end; the index of the first.

        Raises:
            InputError: an entry that is too long; none is added.
        """
        if longest := max((len(e) for e in entries if len(e) > MOST_ENTRY), default=0):
            raise InputError(f"entry: {longest} bytes were given; allowed are {MOST_ENTRY}")
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            first = len(self)
            self._db.executemany("INSERT INTO entries VALUES (?, ?)", enumerate(entries, first))
            self._db.executemany("INSERT INTO nodes VALUES (?, ?, ?)", self._nodes(entries, first))
        return first

    def head(self, size: int | None = None) -> Checkpoint:
        """The checkpoint of the first ``size`` entries, or of all."""
        size = len(self) if size is None else size
        return Checkpoint(self.origin, size, merkle.root(self._read, size))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Proof that an entry is in the first ``size``."""
        self._require(0 <= index < size, index, size)
        return merkle.inclusion(self._read, index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Proof that the log's first ``new`` entries begin with its first ``old``."""
        self._require(0 <= old <= new, old, new)
        return merkle.consistency(self._read, old, new)

    def keep(self, size: int, note: str) -> None:
        """Keep a signed and cosigned head, in the place of those of fewer entries."""
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM heads WHERE size <= ?", (size,))
            self._db.execute("INSERT INTO heads VALUES (?, ?)", (size, note))

    def note(self) -> str | None:
        """The newest head that was kept."""
        with self._told():
            row = self._db.execute("SELECT note FROM heads ORDER BY size DESC LIMIT 1").fetchone()
        return None if row is None else str(row[0])

    def gap(self) -> int | None:
        """Where the first entry is missing, or another stands than the log's order says."""
        with self._told():
            rows = self._db.execute("SELECT place FROM entries ORDER BY place").fetchall()
        return next((due for due, (place,) in enumerate(rows) if place != due), None)

    def changed(self) -> Iterator[tuple[int, int]]:
        """First and last entries of the subtrees whose hashes are not those of the entries."""
        due = {(level, place): found for level, place, found in self._nodes(list(self), 0)}
        with self._told():
            rows = self._db.execute("SELECT level, place, hash FROM nodes").fetchall()
        kept = {(level, place): found for level, place, found in rows}
        for level, place in sorted(due.keys() | kept.keys()):
            if due.get((level, place)) != kept.get((level, place)):
                yield place << level, (place + 1 << level) - 1

    def close(self) -> None:
        """Close the file; what was appended is in it already."""
        with self._told():
            self._files.close()

    def _nodes(self, entries: Sequence[bytes], first: int) -> Iterator[tuple[int, int, bytes]]:
        """Hashes of the complete subtrees that new entries end."""
        new: dict[tuple[int, int], bytes] = {}
        for index, entry in enumerate(entries, first):
            level, place, found = 0, index, merkle.leaf_hash(entry)
            while True:
                new[level, place] = found
                yield level, place, found
                if not place & 1:
                    break
                left = new.get((level, place - 1)) or self._read(level, place - 1)
                level, place, found = level + 1, place >> 1, merkle.node_hash(left, found)

    def _read(self, level: int, place: int) -> bytes:
        with self._told():
            row = self._db.execute(
                "SELECT hash FROM nodes WHERE level = ? AND place = ?", (level, place)
            ).fetchone()
        if row is None:
            raise CheckpointError(f"{self.path}: hash {place} of level {level} is missing")
        return bytes(row[0])

    def _require(self, allowed: bool, old: int, new: int) -> None:
        if not allowed or new > len(self):
            raise InputError(f"size: {old} and {new} were given; the log has {len(self)} entries")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """One thread at a time, and what goes wrong as one sentence."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise CheckpointError(f"{self.path}: the log cannot be used ({error})") from None


def hold(path: Path) -> sqlite3.Connection:
    """Keep others from writing a log until this is closed, or its process ends, however it does.

    A transaction on an empty file beside the log: of SQLite's locks none passes on to the processes
    that are forked from this one, and may outlive it, and none is lost where a process opens the
    file twice.

    Raises:
        InputError: another holds it.
    """
    beside = path.with_name(f"{path.name}-lock")
    held = sqlite3.connect(beside, timeout=0, check_same_thread=False, isolation_level=None)
    try:
        held.execute("PRAGMA journal_mode=OFF")  # which would be one file more
        held.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        held.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise InputError(
            f"record: {path.parent} is being written by another run; let it end, or give another"
            " folder"
        ) from None
    return held


def _to_read(path: Path) -> str:
    """A log's address for SQLite that leaves a disk as it is, which may be one for reading alone.

    While somebody writes, or was killed, what is new is in a second file, and readers need the
    third, with which SQLite finds its way in it. Otherwise nobody changes the log meanwhile.
    """
    second = path.with_name(f"{path.name}-wal")
    written = second.exists() and second.stat().st_size
    return f"{path.absolute().as_uri()}?{'mode=ro' if written else 'immutable=1'}"
