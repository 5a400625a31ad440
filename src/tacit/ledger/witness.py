"""A witness: it cosigns a log's head only if the log has forgotten nothing that it saw."""

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tacit.errors import MessageError
from tacit.ledger.merkle import consistent
from tacit.ledger.note import Checkpoint, Key, Signature, Signer, cosign, verified

MOST_PROOF = 63


class Conflict(MessageError):
    """Another head was cosigned since (409 of c2sp.org/tlog-witness); ``size`` says which."""

    code = "TACIT-112"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"the last checkpoint that was cosigned here has {size} entries")


class Forked(MessageError):
    """A checkpoint that does not extend the last one (422); ``note`` is the log's word for it."""

    code = "TACIT-113"

    def __init__(self, note: str, why: str) -> None:
        self.note = note
        super().__init__(f"the log's record was rewritten: {why}")


class Witness:
    """One site's memory of logs, and its cosignatures (https://c2sp.org/tlog-witness).

    What was seen is compared and kept in one transaction, before a cosignature leaves.

    Args:
        path: of an SQLite file; made where there is none.
        key: of this witness.
        private: the same key's private part; it signs nothing else.
        logs: keys of the logs that are witnessed, by the names of their origins.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        key: Key,
        private: Signer,
        logs: Sequence[Key],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.key, self.private, self.clock = key, private, clock
        self.logs = {log.name: log for log in logs}
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS seen"
            " (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL) STRICT"
        )

    def last(self, origin: str) -> Checkpoint | None:
        """The last checkpoint of a log that was cosigned here."""
        row = self._db.execute("SELECT size, root FROM seen WHERE origin = ?", (origin,)).fetchone()
        return None if row is None else Checkpoint(origin, row[0], bytes(row[1]))

    def cosign(self, old: int, proof: Sequence[bytes], note: str) -> Signature:
        """A cosignature on a signed checkpoint.

        Args:
            old: size of the last checkpoint that was cosigned here.
            proof: that the new one extends it.

        Raises:
            Conflict: another checkpoint was cosigned last.
            Forked: the new one does not extend it.
            MessageError: no checkpoint that the log of its origin has signed.
        """
        if len(proof) > MOST_PROOF:
            raise MessageError(f"a proof of {len(proof)} hashes was sent; {MOST_PROOF} is the most")
        checkpoint, by = verified(note, self.logs.values())
        if [key.name for key in by] != [checkpoint.origin]:
            raise MessageError(f"no known log has signed this checkpoint of {checkpoint.origin!r}")
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            last = self.last(checkpoint.origin)
            size, root = (last.size, last.root) if last else (0, b"")
            if old != size:
                raise Conflict(size)
            if checkpoint.size < size:
                raise Forked(note, f"{checkpoint.size} entries are left of {size}")
            if last and not consistent(size, root, checkpoint.size, checkpoint.root, proof):
                raise Forked(note, f"its first {size} entries are not those that were cosigned")
            self._db.execute(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)",
                (checkpoint.origin, checkpoint.size, checkpoint.root),
            )
        return cosign(checkpoint, self.key, self.private, int(self.clock()))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
