"""Small updates lie with the facts about them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("updates", sa.Column("inside", sa.LargeBinary))
