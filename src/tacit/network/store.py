"""What a coordinator must not forget: a database for facts, a folder for tensors.

A fact is written after the bytes that it names are on the disk, and in one transaction with all
that goes with it, so that a process killed at any moment leaves the state before or after.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from tacit.network.blobs import Offer
from tacit.network.tensors import Tensors, unwritable

_facts = sa.MetaData()
_runs = sa.Table(
    "runs", _facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("state", sa.LargeBinary(32), nullable=False),
    sa.Column("state_size", sa.BigInteger, nullable=False),
    sa.Column("memory", sa.LargeBinary(32), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reason", sa.Text),
)  # fmt: skip
_sites = sa.Table(
    "sites", _facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("site", sa.String(63), primary_key=True),
    sa.Column("rows", sa.BigInteger, nullable=False),
)  # fmt: skip
_updates = sa.Table(
    "updates", _facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("site", sa.String(63), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("loss", sa.Float),
)  # fmt: skip
_arrivals = sa.Table(
    "arrivals", _facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("site", sa.String(63), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("again", sa.Integer, nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("loss", sa.Float),
    sa.UniqueConstraint("experiment", "site", "round", "again"),
)  # fmt: skip
_metrics = sa.Table(
    "metrics", _facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("row", sa.JSON, nullable=False),
)  # fmt: skip


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


@dataclass(frozen=True)
class Arrival:
    """An update of an asynchronous run.

    Attributes:
        round: of the model that the site trained from.
        again: how often it had delivered from this model before.
    """

    site: str
    round: int
    again: int
    digest: bytes
    loss: float | None


class Store:
    """One run's facts and tensors.

    Args:
        url: of the database, as SQLAlchemy has it; by default SQLite in the folder.
    """

    def __init__(self, folder: Path, experiment: str, url: str | None = None) -> None:
        self.experiment, self.tensors = experiment, Tensors(folder / "tensors")
        self._engine = sa.create_engine(url or f"sqlite:///{folder / 'tacit.db'}")
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _durable)
        _facts.create_all(self._engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def read(self) -> Kept | None:
        """The run, if it has begun."""
        with self._transaction() as database:
            row = database.execute(self._of(_runs)).one_or_none()
        if row is None:
            return None
        state = Offer(row.state, row.state_size)
        return Kept(row.round, state, row.memory, row.outcome, row.reason)

    def begin(self, state: Offer, memory: bytes) -> None:
        """The first fact of a run; without effect if it has begun."""
        with self._transaction() as database:
            if database.execute(self._of(_runs)).one_or_none() is None:
                database.execute(
                    _runs.insert().values(
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
            known = self._of(_sites).where(_sites.c.site == site)
            if database.execute(known).one_or_none() is None:
                database.execute(
                    _sites.insert().values(experiment=self.experiment, site=site, rows=rows)
                )

    def sites(self) -> dict[str, int]:
        """Rows of those who joined."""
        with self._transaction() as database:
            return {row.site: row.rows for row in database.execute(self._of(_sites))}

    def accept(self, round: int, site: str, digest: bytes, loss: float | None) -> None:
        """An update whose bytes are here; a second one of the round is without effect."""
        with self._transaction() as database:
            here = self._of(_updates).where(_updates.c.round == round, _updates.c.site == site)
            if database.execute(here).one_or_none() is None:
                database.execute(
                    _updates.insert().values(
                        experiment=self.experiment, round=round, site=site, digest=digest, loss=loss
                    )
                )

    def accepted(self, round: int) -> dict[str, tuple[bytes, float | None]]:
        """Digest and loss of each site's update in a round."""
        wanted = self._of(_updates).where(_updates.c.round == round)
        with self._transaction() as database:
            return {row.site: (row.digest, row.loss) for row in database.execute(wanted)}

    def arrive(self, number: int, arrival: Arrival) -> None:
        """An update of an asynchronous run whose bytes are here, after so many others."""
        with self._transaction() as database:
            database.execute(
                _arrivals.insert().values(
                    experiment=self.experiment, number=number, **asdict(arrival)
                )
            )

    def arrivals(self) -> list[Arrival]:
        """All updates of an asynchronous run, as they came."""
        wanted = self._of(_arrivals).order_by(_arrivals.c.number)
        with self._transaction() as database:
            return [
                Arrival(row.site, row.round, row.again, row.digest, row.loss)
                for row in database.execute(wanted)
            ]

    def advance(self, round: int, state: Offer, memory: bytes, row: Mapping[str, object]) -> None:
        """A round is closed: the state after it, and what is worth reporting."""
        with self._transaction() as database:
            database.execute(
                _runs.update()
                .where(_runs.c.experiment == self.experiment, _runs.c.round == round)
                .values(round=round + 1, state=state.digest, state_size=state.size, memory=memory)
            )
            database.execute(
                _metrics.insert().values(experiment=self.experiment, round=round, row=dict(row))
            )

    def describe(self, round: int, row: Mapping[str, object]) -> None:
        """What a closed round is reported with, now that more is known."""
        with self._transaction() as database:
            database.execute(
                _metrics.update()
                .where(_metrics.c.experiment == self.experiment, _metrics.c.round == round)
                .values(row=dict(row))
            )

    def metrics(self) -> list[dict[str, object]]:
        """One row per closed round."""
        wanted = self._of(_metrics).order_by(_metrics.c.round)
        with self._transaction() as database:
            return [row.row for row in database.execute(wanted)]

    def end(self, outcome: str, reason: str) -> None:
        """How the run ended."""
        with self._transaction() as database:
            database.execute(
                _runs.update()
                .where(_runs.c.experiment == self.experiment)
                .values(outcome=outcome, reason=reason)
            )

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """All of it or, after a crash or an error, nothing.

        Raises:
            CheckpointError: the disk is full, or the database is gone.
        """
        try:
            with self._engine.begin() as database:
                yield database
        except sa.exc.OperationalError as error:
            raise unwritable(self.tensors.folder.parent, error.orig or error) from error

    def _of(self, table: sa.Table) -> sa.Select:
        return sa.select(table).where(table.c.experiment == self.experiment)


def _durable(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
