"""Updates of asynchronous runs lie with what sites signed of them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("arrivals", sa.Column("entry", sa.LargeBinary))
