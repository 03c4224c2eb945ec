"""What tenants were refused, by day and cause; their peaks, by minute and by day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refusals",
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "tenant", "cause", name=op.f("pk_refusals")),
    )
    op.create_table(
        "minute_uses",
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("server", sa.String(16), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("concurrent", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "tenant", "server", name=op.f("pk_minute_uses")),
    )
    op.create_table(
        "peaks",
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("concurrent", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "tenant", name=op.f("pk_peaks")),
    )


def downgrade() -> None:
    for table in ("peaks", "minute_uses", "refusals"):
        op.drop_table(table)
