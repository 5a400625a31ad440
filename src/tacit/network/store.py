"""What a coordinator must not forget: a database for facts, a folder for tensors.

A fact is written after the bytes that it names are on the disk, and in one transaction with all
that goes with it, so that a process killed at any moment leaves the state before or after.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from tacit.errors import InputError
from tacit.network.blobs import Offer
from tacit.network.schema import arrivals, metrics, privacy, runs, sites, updates, upgrade
from tacit.network.tensors import Tensors, unwritable


@dataclass(eq=False)
class _Batch:
    """Updates that are written together: digest and loss by round and site."""

    updates: "dict[tuple[int, str], Update]" = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True)
class Kept:
    """A run as it was when its last round was closed.

    Attributes:
        round: the next one, from 0.
        state: blob of the server's entries of the algorithm's state.
        memory: digest of what an aggregation rule remembers.
        outcome, reason: how the run ended; None before.
    """

    round: int
    state: Offer
    memory: bytes
    outcome: str | None
    reason: str | None


class Update(NamedTuple):
    """A site's update in a round.

    Attributes:
        digest: None where the site keeps it for a secure sum.
        loss: mean training loss.
        inside: all of it, if it is small; else it lies in a file.
    """

    digest: bytes | None
    loss: float | None
    inside: bytes = b""


@dataclass(frozen=True)
class Arrival:
    """An update of an asynchronous run.

    Attributes:
        round: of the model that the site trained from.
        again: how often it had delivered from this model before.
        entry: the site's contribution to the run's record; empty where there is none.
    """

    site: str
    round: int
    again: int
    digest: bytes
    loss: float | None
    entry: bytes = b""


class Store:
    """One run's facts and tensors.

    Args:
        url: of the database, as SQLAlchemy has it; by default SQLite in the folder.

    Raises:
        InputError: the URL is none, or a later version of tacit made the store.
        CheckpointError: the disk is full, or the database is gone.
    """

    def __init__(self, folder: Path, experiment: str, url: str | None = None) -> None:
        self.experiment, self.tensors = experiment, Tensors(folder / "tensors")
        self._lock, self._writing, self._batch = threading.Lock(), threading.Lock(), _Batch()
        try:
            self._engine = sa.create_engine(url or f"sqlite:///{folder / 'tacit.db'}")
        except (sa.exc.ArgumentError, ImportError):  # not the URL itself: it holds a password
            raise InputError(
                "--database: its URL cannot be used; allowed are sqlite:///PATH and, with the"
                " extra 'postgresql', postgresql+psycopg://USER:PASSWORD@HOST/NAME"
            ) from None
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _durable)
        try:
            with self._disk():
                upgrade(self._engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def read(self) -> Kept | None:
        """The run, if it has begun."""
        with self._transaction() as database:
            row = database.execute(self._of(runs)).one_or_none()
        if row is None:
            return None
        state = Offer(row.state, row.state_size)
        return Kept(row.round, state, row.memory, row.outcome, row.reason)

    def begin(self, state: Offer, memory: bytes) -> None:
        """The first fact of a run; without effect if it has begun."""
        with self._transaction() as database:
            if database.execute(self._of(runs)).one_or_none() is None:
                database.execute(
                    runs.insert().values(
                        experiment=self.experiment,
                        round=0,
                        state=state.digest,
                        state_size=state.size,
                        memory=memory,
                    )
                )

    def join(self, site: str, rows: int) -> None:
        """What a site told of its data; what it told first stays."""
        with self._transaction() as database:
            known = self._of(sites).where(sites.c.site == site)
            if database.execute(known).one_or_none() is None:
                database.execute(
                    sites.insert().values(experiment=self.experiment, site=site, rows=rows)
                )

    def sites(self) -> dict[str, int]:
        """Rows of those who joined."""
        with self._transaction() as database:
            return {row.site: row.rows for row in database.execute(self._of(sites))}

    def accept(self, round: int, site: str, update: Update) -> None:
        """An update whose bytes are here; a second one of the round is without effect.

        A disk writes many as fast as one: those that come while it writes wait, and go together.
        """
        with self._lock:
            batch = self._batch
            batch.updates.setdefault((round, site), update)
        with self._writing:
            with self._lock:
                first = batch is self._batch
                if first:
                    self._batch = _Batch()
            if first:
                try:
                    self._write(batch)
                except Exception as error:
                    batch.error = error
        if batch.error is not None:
            raise batch.error

    def _write(self, batch: "_Batch") -> None:
        rows = [
            {"experiment": self.experiment, "round": round, "site": site} | update._asdict()
            for (round, site), update in batch.updates.items()
        ]
        try:
            with self._transaction() as database:
                database.execute(updates.insert(), rows)
        except sa.exc.IntegrityError:  # one of them was here before
            for row in rows:
                with suppress(sa.exc.IntegrityError), self._transaction() as database:
                    database.execute(updates.insert().values(row))

    def accepted(self, round: int) -> dict[str, Update]:
        """Each site's update in a round."""
        wanted = self._of(updates).where(updates.c.round == round)
        with self._transaction() as database:
            return {
                row.site: Update(row.digest, row.loss, row.inside or b"")
                for row in database.execute(wanted)
            }

    def arrive(self, number: int, arrival: Arrival) -> None:
        """An update of an asynchronous run whose bytes are here, after so many others."""
        with self._transaction() as database:
            database.execute(
                arrivals.insert().values(
                    experiment=self.experiment, number=number, **asdict(arrival)
                )
            )

    def arrivals(self) -> list[Arrival]:
        """All updates of an asynchronous run, as they came."""
        wanted = self._of(arrivals).order_by(arrivals.c.number)
        with self._transaction() as database:
            return [
                Arrival(row.site, row.round, row.again, row.digest, row.loss, row.entry or b"")
                for row in database.execute(wanted)
            ]

    def spend(self, round: int, epsilon: float, delta: float) -> None:
        """Privacy is spent, all rounds to this one together; before what spends it is drawn."""
        with self._transaction() as database:
            if database.execute(self._of(privacy).where(privacy.c.round == round)).first() is None:
                database.execute(
                    privacy.insert().values(
                        experiment=self.experiment, round=round, epsilon=epsilon, delta=delta
                    )
                )

    def spent(self) -> list[tuple[float, float]]:
        """Epsilon and delta after each round that has begun to be closed."""
        wanted = self._of(privacy).order_by(privacy.c.round)
        with self._transaction() as database:
            return [(row.epsilon, row.delta) for row in database.execute(wanted)]

    def advance(self, round: int, state: Offer, memory: bytes, row: Mapping[str, object]) -> None:
        """A round is closed: the state after it, and what is worth reporting."""
        with self._transaction() as database:
            database.execute(
                runs.update()
                .where(runs.c.experiment == self.experiment, runs.c.round == round)
                .values(round=round + 1, state=state.digest, state_size=state.size, memory=memory)
            )
            database.execute(
                metrics.insert().values(experiment=self.experiment, round=round, row=dict(row))
            )
            database.execute(
                updates.update()
                .where(updates.c.experiment == self.experiment, updates.c.round == round)
                .values(inside=None)
            )

    def describe(self, round: int, row: Mapping[str, object]) -> None:
        """What a closed round is reported with, now that more is known."""
        with self._transaction() as database:
            database.execute(
                metrics.update()
                .where(metrics.c.experiment == self.experiment, metrics.c.round == round)
                .values(row=dict(row))
            )

    def metrics(self) -> list[dict[str, object]]:
        """One row per closed round."""
        wanted = self._of(metrics).order_by(metrics.c.round)
        with self._transaction() as database:
            return [row.row for row in database.execute(wanted)]

    def end(self, outcome: str, reason: str) -> None:
        """How the run ended."""
        with self._transaction() as database:
            database.execute(
                runs.update()
                .where(runs.c.experiment == self.experiment)
                .values(outcome=outcome, reason=reason)
            )

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """All of it or, after a crash or an error, nothing.

        Raises:
            CheckpointError: the disk is full, or the database is gone.
        """
        with self._disk(), self._engine.begin() as database:
            yield database

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            raise unwritable(self.tensors.folder.parent, error.orig or error) from error

    def _of(self, table: sa.Table) -> sa.Select:
        return sa.select(table).where(table.c.experiment == self.experiment)


def _durable(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
