"""Webhooks and what is sent to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base, BigId


class WebhookRow(Base):
    """One subscription. Written by webhooks/subscriptions.py; the dispatcher moves the cursor."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    # Shell patterns of types, `alias.*`.
    events: Mapped[list[str]]
    description: Mapped[str] = mapped_column(Text)
    # Of the signing key; a rotation counts it up.
    generation: Mapped[int]
    # Id of the last event that the dispatcher looked at.
    cursor: Mapped[int] = mapped_column(BigInteger)
    # An admin, or an endpoint that answers 410, sets it.
    disabled: Mapped[bool]
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]


class WebhookDeliveryRow(Base):
    """One message to one webhook. The dispatcher makes it, tries it, and writes what came back."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "state", "next_attempt_at"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"), index=True)
    # The header webhook-id: the same for all attempts.
    message_id: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    # pending, delivered or failed.
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    # While an attempt runs: from when on another dispatcher may take it over.
    next_attempt_at: Mapped[datetime]
    # None: there was no answer; last_error says why.
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
