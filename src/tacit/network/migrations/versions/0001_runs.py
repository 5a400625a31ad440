"""Runs, who joined them, accepted updates, metrics: all that there was before versions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("experiment", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("state", sa.LargeBinary(32), nullable=False),
        sa.Column("state_size", sa.BigInteger, nullable=False),
        sa.Column("memory", sa.LargeBinary(32), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.Text),
    )
    op.create_table(
        "sites",
        sa.Column("experiment", sa.String(64), primary_key=True),
        sa.Column("site", sa.String(63), primary_key=True),
        sa.Column("rows", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "updates",
        sa.Column("experiment", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("site", sa.String(63), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("loss", sa.Float),
    )
    op.create_table(
        "metrics",
        sa.Column("experiment", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("row", sa.JSON, nullable=False),
    )
