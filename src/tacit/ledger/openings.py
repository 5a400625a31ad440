"""Openings of masked vectors: with them, whoever audits a record computes its sums again.

One file (SQLite) beside the record. Of each node that is in a sum it has the vector as it was sent,
behind its masks, and the key of the node's own mask; of each node that was lost, the keys of the
masks that it shared with those in the sum. These are what the receiver took out of the sum, and the
whole of what it has seen: an auditor learns the sum, as it did, and nobody's part of it.

A vector is sent behind two kinds of masks: the node's own, and one that it shares with each other
node. Take the own one away, and those shared with the others in the sum still hide the vector; they
cancel only in the sum of all. Of a lost node the shared masks are known, and nothing but its own
hides a vector of it that came late. So of no node are both kinds ever opened, nor a vector of a
lost node (Bonawitz et al., CCS 2017, section 6.1). ``Openings`` does not write such a vector, and
an audit names whoever did.

That keys of 16 bytes are opened, and not masks, leaves a dishonest keeper no room: it would have to
find keys whose masks turn the vectors into the sum that it wants.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError, TacitError
from tacit.ledger import records
from tacit.ledger.statement import Statement, canonical
from tacit.protection.secagg import masks

SUM, MASKS, PART = "sum", "masks", "commitment"
_TABLES = """
CREATE TABLE IF NOT EXISTS vectors (
    round INTEGER, sum INTEGER, site TEXT, vector BLOB, PRIMARY KEY (round, site, sum)) STRICT;
CREATE TABLE IF NOT EXISTS sums (
    round INTEGER, sum INTEGER, bits INTEGER, PRIMARY KEY (round, sum)) STRICT;
CREATE TABLE IF NOT EXISTS masks (
    round INTEGER, sum INTEGER, node TEXT, peer TEXT, key BLOB, sign INTEGER,
    PRIMARY KEY (round, sum, node, peer)) STRICT;
CREATE TABLE IF NOT EXISTS commitments (
    round INTEGER, site TEXT, subject TEXT, nonce BLOB, digest BLOB,
    PRIMARY KEY (round, site, subject)) STRICT;
"""
_NAMES = ("vectors", "sums", "masks", "commitments")


class Openings:
    """The openings of a run, as it goes. May be used from many threads, one at a time.

    Args:
        path: of the file, which its owner alone may read; one that is there goes on.

    Raises:
        InputError: a file that cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.touch(0o600)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA secure_delete=ON")  # auditors are given the whole file
            self._db.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"openings: {path} cannot be written ({error})") from None

    def begin(self, round: int) -> None:
        """A round begins, perhaps again."""
        self._round, self.sums = round, 0
        self._total = hashlib.sha256()
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for table in _NAMES:
                self._db.execute(f"DELETE FROM {table} WHERE round = ?", (round,))

    def sent(self, site: str, vector: bytes | memoryview) -> None:
        """What a site sent behind its masks, for the next sum."""
        row = (self._round, self.sums, site, bytes(vector))
        self._db.execute("INSERT INTO vectors VALUES (?, ?, ?, ?)", row)

    def summed(
        self, total: NDArray[Any], recovered: Sequence[masks.Mask], names: Sequence[str]
    ) -> None:
        """A sum was opened.

        Args:
            total: (length,) unsigned integers.
            recovered: masks that were taken out of it.
            names: of the sites, by their numbers.
        """
        where = (self._round, self.sums)
        peers = ["" if mask.peer is None else names[mask.peer] for mask in recovered]
        rows = [
            (*where, names[mask.node], peer, mask.key, mask.sign)
            for mask, peer in zip(recovered, peers, strict=True)
        ]
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO masks VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("INSERT INTO sums VALUES (?, ?, ?)", (*where, 8 * total.itemsize))
            # Whoever is not in the sum: of a vector that came late nothing is told.
            self._db.execute(
                "DELETE FROM vectors WHERE round = ? AND sum = ? AND site NOT IN"
                " (SELECT node FROM masks WHERE round = ? AND sum = ? AND peer = '')",
                where * 2,
            )
        self._total.update(_little(total))
        self.sums += 1

    def digests(self) -> dict[str, bytes]:
        """Of the round's sums, and of the masks that were recovered for them."""
        return {SUM: self._total.digest(), MASKS: _masks(self._db, self._round)[0]}

    def committed(self, site: str, subject: str, nonce: bytes, digest: bytes) -> None:
        """Open a commitment, unless it is to more than what is opened of the site."""
        if subject == PART and _vectors(self._db, self._round, site) != digest:
            return
        row = (self._round, site, subject, nonce, digest)
        self._db.execute("INSERT INTO commitments VALUES (?, ?, ?, ?, ?)", row)

    def commitments(self, round: int, site: str) -> dict[str, tuple[bytes, bytes]]:
        """What was opened of a member's in a round: nonce and digest by subject."""
        asked = "SELECT subject, nonce, digest FROM commitments WHERE round = ? AND site = ?"
        rows = self._db.execute(asked, (round, site))
        return {subject: (nonce, digest) for subject, nonce, digest in rows}

    def close(self) -> None:
        self._db.close()


Found = tuple[int, str] | str


def audit(
    path: Path, statements: Mapping[int, Statement], keys: Mapping[int, Mapping[str, bytes]]
) -> Iterator[Found]:
    """Compute the sums of a record again.

    Args:
        statements: of the record, by their places.
        keys: of the members at each place, by name.

    Yields:
        Entries and what is wrong with them; at the end, in words, what was looked at.

    Raises:
        InputError: no such file, or a record that tells no sum.
    """
    if not path.is_file():
        raise InputError(f"openings: {path} is no file")
    if not any(SUM in s.subjects for s in statements.values() if s.kind == "aggregate"):
        raise InputError(
            f"openings: {path} was given; no round of this record tells the sum of its vectors"
        )
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rounds, parts = 0, dict[int, str]()
    for place, statement in statements.items():
        if statement.kind == "round-open":
            parts = {}
        elif statement.kind == "contribution":
            parts[place] = statement.says["site"]
        elif statement.kind == "aggregate" and SUM in statement.subjects:
            try:
                yield from _Round(db, place, statements, keys, parts).findings()
            except (sqlite3.Error, TypeError, ValueError, LookupError, TacitError):
                yield place, "the openings of this round cannot be read"
            rounds += 1
    db.close()
    yield f"{rounds} rounds summed again"


class _Round:
    """One round's openings, held against its entries."""

    def __init__(
        self,
        db: sqlite3.Connection,
        place: int,
        statements: Mapping[int, Statement],
        keys: Mapping[int, Mapping[str, bytes]],
        parts: Mapping[int, str],
    ) -> None:
        self.db, self.place, self.statements, self.keys = db, place, statements, keys
        self.parts, self.entries = parts, {site: entry for entry, site in parts.items()}
        self.says = statements[place].says
        self.round = self.says["round"]

    def findings(self) -> Iterator[tuple[int, str]]:
        own, shared, sent = self._rows()
        found = list(self._disclosed(own, shared, sent))
        included = {self.parts.get(entry, "") for entry in self.says["included"]}
        for site in sorted(included - {site for _, site in own}):
            found.append((self._of(site), f"{site} is counted, and in no sum"))
        for site in sorted({site for _, site in own} - included):
            found.append((self._of(site), f"{site} is in the sum, and is not counted"))
        for site in sorted({site for _, site in own - sent}):
            found.append((self._of(site), f"the vector of {site} is not opened"))
        for site in sorted(included & self.entries.keys()):
            digest = _vectors(self.db, self.round, site)
            found += self._opened(self.entries[site], site, PART, digest, "masked vector")
        digest, _ = _masks(self.db, self.round)
        keeper = self._keeper()
        found += self._opened(self.place, keeper, MASKS, digest, "list of recovered masks")
        yield from found
        # A sum of something else would only say the same again.
        total = self._sum() if not found else None
        yield from self._opened(self.place, keeper, SUM, total, "sum of the masked vectors")

    def _rows(self) -> tuple[set[tuple[int, str]], set[tuple[int, str]], set[tuple[int, str]]]:
        """Sums and nodes: whose own masks, whose shared masks, and whose vectors are opened."""
        return (
            self._pairs("SELECT sum, node FROM masks WHERE round = ? AND peer = ''"),
            self._pairs("SELECT sum, node FROM masks WHERE round = ? AND peer != ''"),
            self._pairs("SELECT sum, site FROM vectors WHERE round = ?"),
        )

    def _pairs(self, asked: str) -> set[tuple[int, str]]:
        return {(int(place), str(name)) for place, name in self.db.execute(asked, (self.round,))}

    def _disclosed(
        self, own: set[tuple[int, str]], shared: set[tuple[int, str]], sent: set[tuple[int, str]]
    ) -> Iterator[tuple[int, str]]:
        """Nodes of whom more is opened than may be."""
        for _, site in sorted(shared & sent):
            yield self._of(site), f"{site} was lost, and its vector and its masks are both opened"
        for _, site in sorted(shared & own):
            yield self._of(site), f"both kinds of {site}'s masks are opened"
        for _, site in sorted(sent - own - shared):
            yield self._of(site), f"{site}'s vector is opened, and in no sum"

    def _opened(
        self, entry: int, site: str, subject: str, found: bytes | None, what: str
    ) -> Iterator[tuple[int, str]]:
        """Whether a commitment's nonce fits, and what it commits to is what is opened."""
        asked = (
            "SELECT CAST(nonce AS BLOB), CAST(digest AS BLOB) FROM commitments"
            " WHERE round = ? AND site = ? AND subject = ?"
        )
        row = self.db.execute(asked, (self.round, site, subject)).fetchone()
        if row is None:
            yield entry, f"the {what} of {site} is not opened"
            return
        committed = records.commitment(self.keys[entry][site], self.round, *row)
        if committed != self.statements[entry].subjects[subject]:
            yield entry, f"the nonce does not fit {site}'s commitment to its {what}"
        elif found is not None and found != row[1]:
            yield entry, f"the {what} is another than {site} has committed to"

    def _sum(self) -> bytes:
        """Digest of the sums of the round."""
        digest = hashlib.sha256()
        for place, (bits, recovered) in enumerate(_masks(self.db, self.round)[1]):
            total = np.zeros(0, f"<u{bits // 8}")
            asked = "SELECT CAST(vector AS BLOB) FROM vectors WHERE round = ? AND sum = ?"
            for (vector,) in self.db.execute(asked, (self.round, place)):
                read = np.frombuffer(vector, total.dtype)
                total = total + read if len(total) else read.copy()
            masks.add(total, [(bytes.fromhex(key), sign) for _, _, key, sign in recovered])
            digest.update(_little(total))
        return digest.digest()

    def _keeper(self) -> str:
        return str(self.statements[0].says.get("keeper", ""))

    def _of(self, site: str) -> int:
        """A site's entry in the round; that of the aggregate where it has none."""
        return self.entries.get(site, self.place)


def _little(total: NDArray[Any]) -> bytes:
    return total.astype(total.dtype.newbyteorder("<")).tobytes()


def _vectors(db: sqlite3.Connection, round: int, site: str) -> bytes:
    """Digest of what a site sent in a round, one sum's after another's."""
    digest = hashlib.sha256()
    asked = "SELECT CAST(vector AS BLOB) FROM vectors WHERE round = ? AND site = ? ORDER BY sum"
    for (vector,) in db.execute(asked, (round, site)):
        digest.update(vector)
    return digest.digest()


def _masks(db: sqlite3.Connection, round: int) -> tuple[bytes, list[Any]]:
    """Digest of a round's recovered masks, and these: of each sum its integers' bits, and rows."""
    listed = []
    asked = "SELECT sum, CAST(bits AS INTEGER) FROM sums WHERE round = ? ORDER BY sum"
    for place, bits in db.execute(asked, (round,)).fetchall():
        rows = db.execute(
            "SELECT CAST(node AS TEXT), CAST(peer AS TEXT), CAST(key AS BLOB),"
            " CAST(sign AS INTEGER) FROM masks WHERE round = ? AND sum = ? ORDER BY node, peer",
            (round, place),
        )
        listed.append([bits, [[node, peer, key.hex(), sign] for node, peer, key, sign in rows]])
    return hashlib.sha256(canonical(listed)).digest(), listed
