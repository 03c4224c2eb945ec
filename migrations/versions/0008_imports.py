"""Versions are made by jobs; they carry facts, lineage, labels, a card and evaluations; they can be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

EMPTY_LIST, EMPTY_OBJECT = sa.text("'[]'"), sa.text("'{}'")


def upgrade() -> None:
    with op.batch_alter_table("versions") as versions:
        versions.add_column(sa.Column("description", sa.Text(), nullable=False, server_default=""))
        versions.add_column(sa.Column("tags", sa.JSON(), nullable=False, server_default=EMPTY_LIST))
        versions.add_column(sa.Column("lineage", sa.JSON(), nullable=False, server_default=EMPTY_OBJECT))
        versions.add_column(sa.Column("facts", sa.JSON(), nullable=True))
        versions.add_column(sa.Column("card", sa.Text(), nullable=True))
        versions.add_column(sa.Column("evals", sa.JSON(), nullable=False, server_default=EMPTY_LIST))
        versions.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        versions.add_column(sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "version_labels",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_version_labels_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "kind", "value", name=op.f("pk_version_labels")),
    )
    op.create_index(op.f("ix_version_labels_kind_value"), "version_labels", ["kind", "value"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("promote", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_state")
        ),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_jobs_adapter_id_adapters")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_jobs_version_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_state_run_after"), "jobs", ["state", "run_after"], unique=False)
    op.create_index(op.f("ix_jobs_version_id"), "jobs", ["version_id"], unique=False)
    op.create_index(op.f("ix_jobs_created_at"), "jobs", ["created_at"], unique=False)
    with op.batch_alter_table("idempotency") as idempotency:
        idempotency.add_column(sa.Column("job_id", sa.String(length=32), nullable=True))
        idempotency.create_foreign_key(op.f("fk_idempotency_job_id_jobs"), "jobs", ["job_id"], ["id"])
        idempotency.create_index(op.f("ix_idempotency_job_id"), ["job_id"], unique=False)
        idempotency.alter_column("status", existing_type=sa.Integer(), nullable=True)
        idempotency.alter_column("response", existing_type=sa.JSON(), nullable=True)


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM idempotency WHERE response IS NULL"))
    with op.batch_alter_table("idempotency") as idempotency:
        idempotency.alter_column("response", existing_type=sa.JSON(), nullable=False)
        idempotency.alter_column("status", existing_type=sa.Integer(), nullable=False)
        idempotency.drop_index(op.f("ix_idempotency_job_id"))
        idempotency.drop_constraint(op.f("fk_idempotency_job_id_jobs"), type_="foreignkey")
        idempotency.drop_column("job_id")
    op.drop_table("jobs")
    op.drop_table("version_labels")
    with op.batch_alter_table("versions") as versions:
        for column in ("purged_at", "deleted_at", "evals", "card", "facts", "lineage", "tags", "description"):
            versions.drop_column(column)
