"""A provider ends the sessions of a person, of those alone that were issued until then."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null: until its end. A server of the version before closes sessions beside this one, and knows no such column.
    with op.batch_alter_table("closed_sessions") as table:
        table.add_column(sa.Column("issued_until", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("closed_sessions") as table:
        table.drop_column("issued_until")
