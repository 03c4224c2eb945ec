"""A context counts its tokens for each of its base models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("contexts", sa.Column("tokens_of", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("contexts", "tokens_of")
