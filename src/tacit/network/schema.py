"""The tables of a store, and how one that an earlier version made comes to have them."""

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tacit.errors import InputError

facts = sa.MetaData()
runs = sa.Table(
    "runs", facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("state", sa.LargeBinary(32), nullable=False),
    sa.Column("state_size", sa.BigInteger, nullable=False),
    sa.Column("memory", sa.LargeBinary(32), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reason", sa.Text),
)  # fmt: skip
sites = sa.Table(
    "sites", facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("site", sa.String(63), primary_key=True),
    sa.Column("rows", sa.BigInteger, nullable=False),
)  # fmt: skip
updates = sa.Table(
    "updates", facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("site", sa.String(63), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("loss", sa.Float),
    sa.Column("inside", sa.LargeBinary),
)  # fmt: skip
arrivals = sa.Table(
    "arrivals", facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("site", sa.String(63), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("again", sa.Integer, nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("loss", sa.Float),
    sa.Column("entry", sa.LargeBinary),
    sa.UniqueConstraint("experiment", "site", "round", "again"),
)  # fmt: skip
metrics = sa.Table(
    "metrics", facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("row", sa.JSON, nullable=False),
)  # fmt: skip
privacy = sa.Table(
    "privacy", facts,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("epsilon", sa.Float, nullable=False),
    sa.Column("delta", sa.Float, nullable=False),
)  # fmt: skip

_MIGRATIONS = Path(__file__).with_name("migrations")
# Of the version that made tables without writing down which.
_FIRST = "0001"
# A PostgreSQL lock, by a number that is ours: who else opens the database waits.
_LOCK = 0x7AC17


def upgrade(engine: sa.Engine) -> None:
    """Give a database the tables of this version, all of them or, after a crash, none.

    Raises:
        InputError: a later version of tacit made it.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every opening
    with engine.begin() as database:
        if engine.dialect.name == "sqlite":  # which makes tables outside of transactions, else
            database.exec_driver_sql("BEGIN IMMEDIATE")
        elif engine.dialect.name == "postgresql":
            database.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config = Config(attributes={"connection": database})
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        version = MigrationContext.configure(database).get_current_revision()
        if version is None and sa.inspect(database).has_table(runs.name):
            command.stamp(config, version := _FIRST)
        if version not in {None, *known}:
            raise InputError(
                f"{engine.url}: a later version of tacit made this store (its version {version});"
                " install that version, or give another folder or database"
            )
        command.upgrade(config, "head")
