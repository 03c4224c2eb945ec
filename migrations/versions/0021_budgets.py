"""Tenants have budgets of tokens and money."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None
_AMOUNTS = {
    "budget_tokens_per_day": sa.BigInteger(),
    "budget_tokens_per_month": sa.BigInteger(),
    "budget_money_per_day": sa.Double(),
    "budget_money_per_month": sa.Double(),
}


def upgrade() -> None:
    for name, kind in _AMOUNTS.items():
        op.add_column("tenants", sa.Column(name, kind, nullable=True))
    op.add_column("tenants", sa.Column("budget_warned", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    for name in ("budget_warned", *_AMOUNTS):
        op.drop_column("tenants", name)
