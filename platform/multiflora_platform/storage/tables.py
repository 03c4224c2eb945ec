"""The database's tables. Knows no rules: those are in catalog, aliases and versions.

The same models run on SQLite and PostgreSQL; migrations/ must equal them (a test compares).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JOB_STATES = ("queued", "running", "succeeded", "failed", "cancelled")
STATES = ("pending", "fetching", "validating", "ready", "rejected", "archived")
ROLES = ("admin", "tenant")
# What an INTEGER column of PostgreSQL holds.
LARGEST_NUMBER = 2**31 - 1


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite forgets the zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts up only in a column that is spelled INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        list[int]: JSON(),
    }


class TenantRow(Base):
    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    allowed_adapters: Mapped[list[str]] = mapped_column(default=lambda: ["*"])
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    max_concurrent_requests: Mapped[int | None]
    kv_share: Mapped[float] = mapped_column(Double, default=1.0)
    priority: Mapped[str] = mapped_column(String(8), default="normal")
    shared_prefixes: Mapped[bool] = mapped_column(default=False)
    disabled: Mapped[bool] = mapped_column(default=False)


class KeyRow(Base):
    """hmac: hex HMAC-SHA256 under the server's secret; the key itself is not kept. prefix: its start, for people.

    scopes: None is everything that the role may. rotated_from: the id of the key that it follows.
    """

    __tablename__ = "keys"
    __table_args__ = (CheckConstraint(f"role IN {ROLES}", name="role"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    hmac: Mapped[str] = mapped_column(String(64), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    tenant_id: Mapped[int | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    scopes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    expires_at: Mapped[datetime | None]
    rotated_from: Mapped[str | None] = mapped_column(String(32))


class UsageRow(Base):
    """day: of UTC, as 2026-01-31. tenant: "" for admins. adapter: "" for the base model. device_us: microseconds."""

    __tablename__ = "usage"

    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    adapter: Mapped[str] = mapped_column(String(255), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    device_us: Mapped[int] = mapped_column(BigInteger)


class AdapterRow(Base):
    """A deleted adapter keeps its row, so that history stays readable; its name is free again.

    owner: the tenant's name that made it; None is the administration. seed: digest and base of what the command line
    last registered under this name.
    """

    __tablename__ = "adapters"
    __table_args__ = (
        Index(
            "uq_adapters_name",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[str]]
    demo_prompt: Mapped[str | None] = mapped_column(Text)
    warmup_prompts: Mapped[list[str]] = mapped_column(default=list)
    owner: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class VersionRow(Base):
    """digest, manifest, facts: None until known. source: "upload" or the source's address, pinned once it is known.

    facts: what its layout on this base model tells (facts.py of the adapters). card: README.md as it came. evals: what
    is asked and, once it ran, the results. deleted_at: archived, can be restored; purged_at: only its number is left.
    """

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        CheckConstraint(f"state IN {STATES}", name="state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), index=True)
    digest: Mapped[str | None] = mapped_column(String(64), index=True)
    base_digest: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    source: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[str]] = mapped_column(default=list)
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    card: Mapped[str | None] = mapped_column(Text)
    evals: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]


class VersionLabelRow(Base):
    """What versions are searched by. kind: tag, dataset, run or parent."""

    __tablename__ = "version_labels"
    __table_args__ = (Index(None, "kind", "value"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[str] = mapped_column(String(255), primary_key=True)


class JobRow(Base):
    """Making one version: whoever holds the lease works on it; a lease that ended is anybody's.

    done, total: bytes fetched so far, of how many. run_after: not to be tried before. outcome: the answer to the
    request that made it, {"status", "body"}. error: of the last attempt.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN {JOB_STATES}", name="state"),
        Index(None, "state", "run_after"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    promote: Mapped[bool]
    actor: Mapped[str] = mapped_column(String(200))
    attempts: Mapped[int]
    done: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int | None] = mapped_column(BigInteger)
    run_after: Mapped[datetime]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]


class VersionFileRow(Base):
    __tablename__ = "version_files"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)


class ReportRow(Base):
    """One line of a version's validation report, in order of `position`."""

    __tablename__ = "validation_rows"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    check: Mapped[str] = mapped_column("check_name", String(64))
    severity: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    observed: Mapped[str | None] = mapped_column(Text)
    expected: Mapped[str | None] = mapped_column(Text)
    hint: Mapped[str | None] = mapped_column(Text)


class AliasRow(Base):
    """target: {"version": n} or {"split": {"n": percent}}. layout: the version of each of 100
    buckets (traffic_split.py).

    revision: the id of the AliasMove that set it; ids are never used twice, so neither is a revision. protected: only
    admins move it.
    """

    __tablename__ = "aliases"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    target: Mapped[dict[str, Any]]
    layout: Mapped[list[int]]
    revision: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]
    protected: Mapped[bool] = mapped_column(default=False)


class AliasMoveRow(Base):
    """History: one row for every change of an alias. target None: it was deleted."""

    __tablename__ = "alias_history"
    __table_args__ = (Index(None, "adapter_id", "alias"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    alias: Mapped[str] = mapped_column(String(64))
    target: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    actor: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]


class RolloutRow(Base):
    """A candidate on its way. At most one of an alias is "running". bounds, observed: as schemas/rollouts.py has
    them."""

    __tablename__ = "rollouts"
    __table_args__ = (Index(None, "adapter_id", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    alias: Mapped[str] = mapped_column(String(64))
    stable: Mapped[int]
    candidate: Mapped[int]
    percent: Mapped[int]
    shadow_percent: Mapped[int]
    bounds: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str | None] = mapped_column(Text)
    observed: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class EventRow(Base):
    """The outbox: written in the transaction of the change that it tells of."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    adapter: Mapped[str | None] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class WebhookRow(Base):
    """events: patterns of types. generation: of the signing key. cursor: id of the last event that was looked at."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]]
    description: Mapped[str] = mapped_column(Text)
    generation: Mapped[int]
    cursor: Mapped[int] = mapped_column(BigInteger)
    disabled: Mapped[bool]
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]


class WebhookDeliveryRow(Base):
    """state: pending, delivered or failed. next_attempt_at: while one runs, when somebody else may take it over."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "state", "next_attempt_at"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"), index=True)
    message_id: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]


class AuditRow(Base):
    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(255))
    detail: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class IdempotencyRow(Base):
    """The first answer to a request, given again to every repetition under the same key: here, or its job's."""

    __tablename__ = "idempotency"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    status: Mapped[int | None]
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(index=True)


class StoredFileRow(Base):
    """owner: the tenant's name; None is the administration. The bytes lie in the data folder under the id."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class BatchRow(Base):
    """owner: as a file's. note: the client's metadata. errors: what is wrong with the input. Counts are of the end."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(64), index=True)
    endpoint: Mapped[str] = mapped_column(String(64))
    input_file_id: Mapped[str] = mapped_column(String(80))
    output_file_id: Mapped[str | None] = mapped_column(String(80))
    error_file_id: Mapped[str | None] = mapped_column(String(80))
    status: Mapped[str] = mapped_column(String(16), index=True)
    note: Mapped[dict[str, Any]]
    errors: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    total: Mapped[int]
    completed: Mapped[int]
    failed: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
