"""What each key used, beside what its tenant did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None
_COUNTED = (
    "requests", "prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "device_us", "saved_us",
    "again_us", "stored_token_seconds",
)  # fmt: skip


def upgrade() -> None:
    # A table of its own: a server of the version before writes its usage beside this one, by three columns.
    op.create_table(
        "usage_by_key",
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("adapter", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTED),
        sa.PrimaryKeyConstraint("day", "tenant", "adapter", "key", name=op.f("pk_usage_by_key")),
    )
    counted = ", ".join(_COUNTED)
    op.execute(
        f"INSERT INTO usage_by_key (day, tenant, adapter, key, {counted})"
        f" SELECT day, tenant, adapter, '', {counted} FROM usage"
    )


def downgrade() -> None:
    op.drop_table("usage_by_key")
