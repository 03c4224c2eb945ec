"""The jobs that make versions, and the answers kept for repeated requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base

JOB_STATES = ("queued", "running", "succeeded", "failed", "cancelled")


class JobRow(Base):
    """The making of one version, by the worker that holds the lease; once that ended, any worker may take it."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN {JOB_STATES}", name="state"),
        Index(None, "state", "run_after"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    # One of JOB_STATES.
    state: Mapped[str] = mapped_column(String(16))
    # Whether the default alias moves to the version when it is ready.
    promote: Mapped[bool]
    # Who asked for it, as the audit names actors.
    actor: Mapped[str] = mapped_column(String(200))
    attempts: Mapped[int]
    # Bytes fetched so far; written with each heartbeat.
    done: Mapped[int] = mapped_column(BigInteger)
    # Bytes to fetch; None until the source says it.
    total: Mapped[int | None] = mapped_column(BigInteger)
    # Not tried before; the pause after a failed attempt.
    run_after: Mapped[datetime]
    # The worker that runs it; None while it waits or has ended.
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    # Each heartbeat moves it on.
    lease_until: Mapped[datetime | None]
    # Of the last attempt.
    error: Mapped[str | None] = mapped_column(Text)
    # The answer to the request that made it, {"status", "body"}; None until it has ended.
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]


class IdempotencyRow(Base):
    """The first answer to a request, given again to every repetition under the same key."""

    __tablename__ = "idempotency"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    # The client's Idempotency-Key.
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    # Of the first request's content: other content under the same key is refused.
    request_hash: Mapped[str] = mapped_column(String(64))
    # The job whose outcome is the answer; status and response are None then.
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    status: Mapped[int | None]
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(index=True)
