"""Tenants' limits, keys' scopes and expiry, usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    tenants = (
        sa.Column("allowed_adapters", sa.JSON(), nullable=False, server_default='["*"]'),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("tokens_per_minute", sa.Integer(), nullable=True),
        sa.Column("max_concurrent_requests", sa.Integer(), nullable=True),
        sa.Column("kv_share", sa.Double(), nullable=False, server_default="1"),
        sa.Column("priority", sa.String(length=8), nullable=False, server_default="normal"),
        sa.Column("shared_prefixes", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("disabled", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    for column in tenants:
        op.add_column("tenants", column)
    op.add_column("keys", sa.Column("scopes", sa.JSON(), nullable=True))
    op.add_column("keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("keys", sa.Column("rotated_from", sa.String(length=32), nullable=True))
    op.create_table(
        "usage",
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("adapter", sa.String(length=255), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("device_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "tenant", "adapter", name=op.f("pk_usage")),
    )


def downgrade() -> None:
    op.drop_table("usage")
    for column in ("rotated_from", "expires_at", "scopes"):
        op.drop_column("keys", column)
    for column in (
        "disabled",
        "shared_prefixes",
        "priority",
        "kv_share",
        "max_concurrent_requests",
        "tokens_per_minute",
        "requests_per_minute",
        "allowed_adapters",
    ):
        op.drop_column("tenants", column)
