"""A rollout says why it was started."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("why", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("rollouts", "why")
