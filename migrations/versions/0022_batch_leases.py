"""Batches have leases, their results parts in a bucket, and files of the batch API digests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("digest", sa.String(64), nullable=True))
    op.add_column("batches", sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))
    op.add_column("batches", sa.Column("lease_owner", sa.String(64), nullable=True))
    op.add_column("batches", sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("batches", sa.Column("saved", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    for name in ("saved", "lease_until", "lease_owner", "attempts"):
        op.drop_column("batches", name)
    op.drop_column("files", "digest")
