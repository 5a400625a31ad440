"""What a site signed and sent in a run, and what opens its commitments.

Both lie in one file that the site alone may read: what is sent is waited for in the record, and
once it stands there its nonce is an opening.
"""

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tacit.errors import CheckpointError
from tacit.ledger import records
from tacit.ledger.incident import REPORT
from tacit.ledger.note import Signer
from tacit.ledger.recorder import OPENINGS
from tacit.ledger.statement import signed
from tacit.network.identity import write
from tacit.network.sums import KeyOf

_TABLES = """
CREATE TABLE IF NOT EXISTS openings (
    entry INTEGER PRIMARY KEY, site TEXT NOT NULL, nonce BLOB NOT NULL, digest BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sent (
    round INTEGER NOT NULL, again INTEGER NOT NULL, contribution BLOB NOT NULL,
    nonce BLOB NOT NULL, digest BLOB NOT NULL, awaited INTEGER NOT NULL, PRIMARY KEY (round, again)
) STRICT;
"""


class Receipts:
    """A site's contributions.

    Args:
        folder: for the file; it is made when something is sent.
        site: its name; ``signer`` holds its long-term key.
        key_of: tells the public one.
    """

    def __init__(self, folder: Path, site: str, signer: Signer, key_of: KeyOf) -> None:
        self.folder, self.site, self.signer, self.key_of = folder, site, signer, key_of

    def contribution(
        self,
        round: int,
        base: bytes,
        sent: Path | bytes,
        rows: int,
        claim: str,
        turn: records.Turn | None = None,
        again: int = 0,
        awaited: bool = True,
        policy: bytes | None = None,
    ) -> tuple[bytes, bytes]:
        """The signed entry for what is sent, and its nonce; the same if it is sent again.

        Of a round the site stands by the last thing that it sent.

        Args:
            base: digest of the model that the round began with.
            claim: what protects it, in words.
            turn: where members lead by turns.
            again: in asynchronous rounds, how often the site had trained from this model before.
            awaited: whether it is to stand in the record from now on; else once ``expect`` says so.
            policy: of the peer's own log, in a run of peers.
        """
        with self._kept() as db:
            digest = sha256(sent)
            asked = (
                "SELECT contribution, nonce FROM sent WHERE round = ? AND again = ? AND digest = ?"
            )
            if (row := db.execute(asked, (round, again, digest)).fetchone()) is not None:
                return bytes(row[0]), bytes(row[1])
            nonce = secrets.token_bytes(records.NONCE)
            key = self.key_of(self.site).public_bytes_raw()
            committed = records.commitment(key, round, nonce, digest)
            said = records.contribution(
                round, self.site, base, committed, rows, claim, turn, policy
            )  # fmt: skip
            entry = signed(said, {self.site: self.signer})
            db.execute(
                "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?)",
                (round, again, entry, nonce, digest, awaited),
            )
        return entry, nonce

    def expect(self, round: int, again: int) -> None:
        """The coordinator has taken a contribution, which is to stand in the record therefore."""
        with self._kept() as db:
            db.execute("UPDATE sent SET awaited = 1 WHERE round = ? AND again = ?", (round, again))

    @property
    def waiting(self) -> int | None:
        """The last round whose contribution was not seen in the record so far."""
        return max((round for round, _ in self.awaited()), default=None)

    def awaited(self, most: int = 2**31) -> list[tuple[int, int]]:
        """Contributions that were not seen in the record so far, the oldest first: their round,
        and ``again``."""
        with self._kept() as db:
            asked = "SELECT round, again FROM sent WHERE awaited ORDER BY round, again LIMIT ?"
            return db.execute(asked, (most,)).fetchall()

    def entry(self, round: int, again: int = 0) -> bytes:
        """A contribution that is waited for."""
        with self._kept() as db:
            asked = "SELECT contribution FROM sent WHERE round = ? AND again = ?"
            return bytes(db.execute(asked, (round, again)).fetchone()[0])

    def found(self, round: int, place: int, again: int = 0) -> None:
        """A contribution stands in the record. The last one may be sent once more, and stays."""
        with self._kept() as db:
            db.execute(
                "INSERT OR REPLACE INTO openings"
                " SELECT ?, ?, nonce, digest FROM sent WHERE round = ? AND again = ?",
                (place, self.site, round, again),
            )
            self._settled(db, round, again)
            last = "SELECT max(round) FROM sent"
            db.execute(f"DELETE FROM sent WHERE NOT awaited AND round < ({last})")

    def withheld(self, round: int, by: str, again: int = 0) -> None:
        """The record is past a round, and leaves this site's contribution to it out: report it."""
        report = records.incident(by, [self.entry(round, again)])
        text = signed(report, {self.site: self.signer})
        with self._kept() as db:
            write(self.folder / REPORT.format(f"{round}-{again}" if again else round), text)
            self._settled(db, round, again)

    @staticmethod
    def _settled(db: sqlite3.Connection, round: int, again: int) -> None:
        db.execute("UPDATE sent SET awaited = 0 WHERE round = ? AND again = ?", (round, again))

    @contextmanager
    def _kept(self) -> Iterator[sqlite3.Connection]:
        """What the site alone may know, in one transaction."""
        path = self.folder / OPENINGS
        with told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
            db = sqlite3.connect(path, isolation_level=None)
            try:
                db.execute("PRAGMA synchronous=FULL")
                db.executescript(_TABLES)
                db.execute("BEGIN IMMEDIATE")
                with db:
                    yield db
            finally:
                db.close()


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """What goes wrong on the disk, as one sentence."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise CheckpointError(f"{folder}: it cannot be used ({error})") from None


def sha256(content: Path | bytes) -> bytes:
    """Of a file, or of bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    return records.file_digest(content)
