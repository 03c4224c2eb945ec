"""Aliases know where a rollback goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ALIASES = sa.table(
    "aliases",
    sa.column("adapter_id", sa.Integer),
    sa.column("name", sa.String),
    sa.column("target", sa.JSON),
    sa.column("revision", sa.BigInteger),
    sa.column("previous", sa.JSON(none_as_null=True)),
)
MOVES = sa.table(
    "alias_history",
    sa.column("id", sa.BigInteger),
    sa.column("adapter_id", sa.Integer),
    sa.column("alias", sa.String),
    sa.column("target", sa.JSON(none_as_null=True)),
)
ROLLOUTS = sa.table(
    "rollouts",
    sa.column("id", sa.Integer),
    sa.column("adapter_id", sa.Integer),
    sa.column("alias", sa.String),
    sa.column("stable", sa.Integer),
    sa.column("state", sa.String),
)


def upgrade() -> None:
    op.add_column("aliases", sa.Column("previous", sa.JSON(), nullable=True))
    connection = op.get_bind()
    for alias in connection.execute(sa.select(ALIASES)).mappings().all():
        previous = _previous(connection, alias)
        if previous is not None:
            key = (ALIASES.c.adapter_id == alias["adapter_id"], ALIASES.c.name == alias["name"])
            connection.execute(sa.update(ALIASES).where(*key).values(previous=previous))


def _previous(connection: sa.Connection, alias: sa.RowMapping) -> dict[str, int] | None:
    """The stable version after a rollout that did not end well; else the last single version before this one. Which
    splits were a rollout's own is not known any more, so none is returned to."""
    newest = (
        sa.select(ROLLOUTS.c.stable, ROLLOUTS.c.state)
        .where(ROLLOUTS.c.adapter_id == alias["adapter_id"], ROLLOUTS.c.alias == alias["name"])
        .order_by(ROLLOUTS.c.id.desc())
        .limit(1)
    )
    rollout = connection.execute(newest).first()
    if rollout is not None and (
        rollout.state == "running"
        or (rollout.state in ("rolled_back", "aborted") and alias["target"] == {"version": rollout.stable})
    ):
        return {"version": rollout.stable}
    moves = (
        sa.select(MOVES.c.target)
        .where(
            MOVES.c.adapter_id == alias["adapter_id"],
            MOVES.c.alias == alias["name"],
            MOVES.c.id < alias["revision"],
        )
        .order_by(MOVES.c.id.desc())
    )
    targets = connection.execute(moves).scalars()
    return next((one for one in targets if one and "version" in one and one != alias["target"]), None)


def downgrade() -> None:
    op.drop_column("aliases", "previous")
