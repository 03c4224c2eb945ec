"""A session that was closed at one server is closed at all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "closed_sessions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_closed_sessions")),
    )


def downgrade() -> None:
    op.drop_table("closed_sessions")
