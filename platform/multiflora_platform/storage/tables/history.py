"""What happened: events for programs that follow, the audit for people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base, BigId


class EventRow(Base):
    """The outbox: written in the transaction of the change that it tells of, read by followers, SSE and webhooks."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    # Committed in order: a cursor over it misses nothing.
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    # The name of the adapter that it is about.
    adapter: Mapped[str | None] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class AuditRow(Base):
    """One administrative act. Written with the event of the same change, never altered."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    # Principal.actor of the key that did it, or the server's own `system`.
    actor: Mapped[str] = mapped_column(String(200))
    # `noun.verb`, as the event's type.
    action: Mapped[str] = mapped_column(String(64))
    # What it was done to.
    target: Mapped[str] = mapped_column(String(255))
    detail: Mapped[dict[str, Any]]
    at: Mapped[datetime]
