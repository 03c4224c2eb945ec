"""Files and batches of the batch API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base


class StoredFileRow(Base):
    """A file of the batch API; its bytes lie in the data folder, or in the bucket that servers share, under the id."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    # The tenant's name; None: the administration.
    owner: Mapped[str | None] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column(BigInteger)
    # SHA-256 of its bytes, in hex; None: of an earlier release, in the data folder.
    digest: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]


class BatchRow(Base):
    """One batch; the runner that holds its lease writes status, files, counts and moments as it goes on."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    # As a file's.
    owner: Mapped[str | None] = mapped_column(String(64), index=True)
    endpoint: Mapped[str] = mapped_column(String(64))
    input_file_id: Mapped[str] = mapped_column(String(80))
    output_file_id: Mapped[str | None] = mapped_column(String(80))
    error_file_id: Mapped[str | None] = mapped_column(String(80))
    status: Mapped[str] = mapped_column(String(16), index=True)
    # The client's metadata.
    note: Mapped[dict[str, Any]]
    # What is wrong with the input.
    errors: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    # Requests in the input; known once the runner has checked it. The two counts below are of its last heartbeat.
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
    # Runners that took it up since the last one that got on with it.
    attempts: Mapped[int] = mapped_column(server_default="0", default=0)
    # The claim of the runner that works on it; None while it waits or has ended.
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    # Each heartbeat moves it on.
    lease_until: Mapped[datetime | None]
    # Of its results so far, the parts that are in the bucket, as batches/result_parts.py has them. Empty where the data
    # folder has them, and at the end.
    saved: Mapped[dict[str, Any]] = mapped_column(JSON, server_default="{}", default=dict)
