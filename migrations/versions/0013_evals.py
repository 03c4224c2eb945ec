"""Evals that can be run again, and trainers' own metrics of versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("metrics", sa.JSON(), server_default="{}", nullable=False))
    op.create_table(
        "eval_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("min_score", sa.Double(), nullable=True),
        sa.Column("aliases", sa.JSON(), nullable=False),
        *_origin(),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_eval_sets_adapter_id_adapters")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eval_sets")),
        sa.UniqueConstraint("adapter_id", "name", name=op.f("uq_eval_sets_adapter_id_name")),
    )
    op.create_table(
        "eval_set_versions",
        sa.Column("set_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("cases", sa.JSON(), nullable=False),
        *_origin(),
        sa.ForeignKeyConstraint(["set_id"], ["eval_sets.id"], name=op.f("fk_eval_set_versions_set_id_eval_sets")),
        sa.PrimaryKeyConstraint("set_id", "number", name=op.f("pk_eval_set_versions")),
    )
    _create_runs()
    op.create_table(
        "eval_results",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("checks", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["eval_runs.id"], name=op.f("fk_eval_results_run_id_eval_runs")),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_eval_results")),
    )


def _create_runs() -> None:
    op.create_table(
        "eval_runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("set_id", sa.Integer(), nullable=False),
        sa.Column("set_version", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("mix", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("total", "passed", "failed", "errors")),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        *_origin(),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_eval_runs_adapter_id_adapters")),
        sa.ForeignKeyConstraint(["set_id"], ["eval_sets.id"], name=op.f("fk_eval_runs_set_id_eval_sets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eval_runs")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_eval_runs_adapter_id"), "eval_runs", ["adapter_id"], unique=False)
    op.create_index(op.f("ix_eval_runs_set_id_version"), "eval_runs", ["set_id", "version"], unique=False)
    op.create_index(op.f("ix_eval_runs_state"), "eval_runs", ["state"], unique=False)


def _origin() -> tuple[sa.Column[str], sa.Column[str]]:
    return (
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    for table in ("eval_results", "eval_runs", "eval_set_versions", "eval_sets"):
        op.drop_table(table)
    op.drop_column("versions", "metrics")
