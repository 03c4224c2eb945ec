"""Servers on one database tell each other what they see of rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollout_observations",
        sa.Column("rollout_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("server", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("observed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "server", name=op.f("pk_rollout_observations")),
    )
    if op.get_context().dialect.name == "postgresql":
        # Written all the time while a rollout runs, and made anew after a crash: no write-ahead log.
        op.execute("ALTER TABLE rollout_observations SET UNLOGGED")


def downgrade() -> None:
    op.drop_table("rollout_observations")
