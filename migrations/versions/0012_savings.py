"""Usage counts the device's time that cached tokens spared, and that evicted ones took again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_COLUMNS = ("saved_us", "again_us")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("usage", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("usage", name)
