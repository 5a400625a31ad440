"""The privacy ledger of a node: what each of its data sets has given away, and may still give.

One SQLite file outlives runs and sums over experiments and users. ``spend`` commits a release to
the disk *before* the training that will make it: a crash in between loses budget, never privacy.

A spend belongs to an *attempt*: one draw of noise. Sending the same bytes again is the same attempt
and costs nothing; computing the round again with fresh noise is another attempt and is paid again,
also when the first one may never have arrived, for nobody can tell. Whoever resumes a run passes
the attempt's name again only if the noise is a function of that name.

The total is composed over all recorded releases by ``accounting.filtered``, since the next one may
be chosen after seeing the earlier ones; it is up to a tenth above what ``accounting.spent`` says of
one run that was planned as a whole, and a budget is to be granted by it. An account is of rows, of
labels or of nodes, whichever was paid for first: what hides a node's presence by epsilon hides a
change of one of its rows by about twice as much, so that the two do not add up. The ledger holds
against users and crashes; whoever can write the node's files can also put an older copy of it back.
"""

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tacit.errors import InputError, require
from tacit.protection.accounting import filtered
from tacit.protection.release import Grid, Poisson, Release, WithoutReplacement

_APPLICATION = 0x54434254  # "TCBT", SQLite's application_id
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
CREATE TABLE budget (
    dataset TEXT PRIMARY KEY,
    epsilon REAL NOT NULL CHECK (epsilon > 0),
    delta REAL NOT NULL CHECK (delta > 0 AND delta < 1)
) STRICT;
CREATE TABLE spending (
    dataset TEXT NOT NULL REFERENCES budget,
    attempt TEXT NOT NULL,
    experiment TEXT NOT NULL,
    round INTEGER NOT NULL,
    release TEXT NOT NULL,
    times INTEGER NOT NULL CHECK (times > 0),
    unit TEXT NOT NULL CHECK (unit IN ('row', 'node', 'label')),
    PRIMARY KEY (dataset, attempt)
) STRICT;
"""


@dataclass(frozen=True)
class PrivacyBudget:
    """The ledger in the file ``path``, made with mode 0600 if there is none.

    Safe to use from several processes at once. Every method raises ``InputError`` when the file
    cannot be read or written, is damaged, is not a ledger, or is open to other users.
    """

    path: Path

    def __post_init__(self) -> None:
        with _clear_errors(self.path), contextlib.suppress(FileExistsError):
            self.path.touch(0o600, exist_ok=False)
        with self._transaction() as ledger:
            if ledger.execute("PRAGMA schema_version").fetchone() == (0,):
                for statement in _SCHEMA.split(";"):
                    ledger.execute(statement)

    def grant(self, dataset: str, epsilon: float, delta: float) -> None:
        """Allow ``dataset`` to spend (epsilon, delta) in all; what was spent stays spent."""
        require(0 < epsilon < float("inf"), "epsilon", epsilon, "a finite number above 0")
        require(0 < delta < 1, "delta", delta, "a probability between 0 and 1")
        with self._transaction() as ledger:
            ledger.execute(
                "INSERT INTO budget VALUES (?, ?, ?) ON CONFLICT (dataset)"
                " DO UPDATE SET epsilon = excluded.epsilon, delta = excluded.delta",
                (dataset, float(epsilon), float(delta)),
            )

    def spent(self, dataset: str) -> float:
        """Epsilon spent so far, at the granted delta."""
        with self._transaction() as ledger:
            _, delta = _granted(ledger, dataset)
            return filtered(_releases(ledger, dataset), delta)

    def spend(
        self,
        dataset: str,
        experiment: str,
        round: int,
        release: Release,
        times: int = 1,
        attempt: str | None = None,
        unit: Literal["row", "node", "label"] = "node",
    ) -> str:
        """Pay for ``times`` releases; when this returns, the payment is on the disk.

        Args:
            attempt: the name of this draw of noise; None makes a new name, which always pays.
            unit: whom the release protects.

        Returns:
            The attempt's name.

        Raises:
            InputError: the total would pass the budget, the data set has none or has paid for
                another unit, or the attempt was recorded with something else. Nothing is spent
                then.
        """
        require(times >= 1, "times", times, "a whole number from 1")
        name = secrets.token_hex(16) if attempt is None else attempt
        entry = (experiment, round, _to_json(release), times, unit)
        with self._transaction() as ledger:
            epsilon, delta = _granted(ledger, dataset)
            paid = ledger.execute(
                "SELECT experiment, round, release, times, unit FROM spending"
                " WHERE dataset = ? AND attempt = ?",
                (dataset, name),
            ).fetchone()
            if paid is not None:
                require(paid == entry, "attempt", name, f"a new name, as it paid for {paid}")
                return name
            before = _releases(ledger, dataset)
            _check_adjacency(dataset, before, release)
            _check_unit(ledger, dataset, unit)
            after = [*before, (release, times)]
            total = filtered(after, delta)
            if not total <= epsilon:  # refuses NaN too
                raise InputError(
                    f"privacy budget of {dataset!r}: epsilon {filtered(before, delta):.4g} is spent"
                    f" and this would make it {total:.4g};"
                    f" the budget is {epsilon:g} at delta {delta:g}"
                )
            ledger.execute(
                "INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?, ?)", (dataset, name, *entry)
            )
        return name

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one process at a time, on the disk when it ends without an error."""
        with _clear_errors(self.path):
            if os.stat(self.path).st_mode & 0o077:
                raise InputError(
                    f"privacy ledger {self.path}: other users can open it; allowed is mode 0600"
                )
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            with contextlib.closing(
                sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)
            ) as ledger:
                ledger.execute("PRAGMA synchronous = EXTRA")  # the journal's removal too
                ledger.execute("PRAGMA foreign_keys = ON")
                ledger.execute("BEGIN IMMEDIATE")
                made = ledger.execute("PRAGMA schema_version").fetchone() != (0,)
                mark = ledger.execute("PRAGMA application_id").fetchone()
                if made and mark != (_APPLICATION,):
                    raise InputError(f"privacy ledger {self.path}: the file is not a ledger")
                try:
                    yield ledger
                except BaseException:
                    ledger.execute("ROLLBACK")
                    raise
                ledger.execute("COMMIT")


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"privacy ledger {path}: {reason}") from error


def _granted(ledger: sqlite3.Connection, dataset: str) -> tuple[float, float]:
    row = ledger.execute(
        "SELECT epsilon, delta FROM budget WHERE dataset = ?", (dataset,)
    ).fetchone()
    if row is None:
        raise InputError(f"privacy budget of {dataset!r}: none was granted")
    return row[0], row[1]


def _releases(ledger: sqlite3.Connection, dataset: str) -> list[tuple[Release, int]]:
    rows = ledger.execute(
        "SELECT release, SUM(times) FROM spending WHERE dataset = ? GROUP BY release", (dataset,)
    )
    return [(_from_json(text), times) for text, times in rows]


def _check_adjacency(dataset: str, before: list[tuple[Release, int]], release: Release) -> None:
    if before and before[0][0].adjacency != release.adjacency:
        raise InputError(
            f"privacy budget of {dataset!r}: a release under {release.adjacency!r} was given; its"
            f" earlier ones are under {before[0][0].adjacency!r}, and the two do not add up"
        )


def _check_unit(ledger: sqlite3.Connection, dataset: str, unit: str) -> None:
    row = ledger.execute("SELECT unit FROM spending WHERE dataset = ?", (dataset,)).fetchone()
    if row is not None and row[0] != unit:
        raise InputError(
            f"privacy budget of {dataset!r}: a release that protects a {unit} was given; its"
            f" earlier ones protect a {row[0]}, and the two do not add up"
        )


def _to_json(release: Release) -> str:
    record = asdict(release)
    record["sampler"] = (
        {type(release.sampler).__name__: record["sampler"]} if release.sampler else None
    )
    return json.dumps(record, sort_keys=True)


def _from_json(text: str) -> Release:
    try:
        record = json.loads(text)
        match record.pop("sampler"):
            case {"Poisson": fields}:
                sampler: Poisson | WithoutReplacement | None = Poisson(**fields)
            case {"WithoutReplacement": fields}:
                sampler = WithoutReplacement(**fields)
            case None:
                sampler = None
            case _:
                raise ValueError
        grid = record.pop("grid")
        return Release(**record, sampler=sampler, grid=grid and Grid(**grid))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError("privacy ledger: an entry is damaged") from error
