"""Named contexts: beginnings of prompts that the prefix cache holds on purpose."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base, BigId


class ContextRow(Base):
    """One context. Written by contexts/changes.py; what is cached of it is the engine's to say."""

    __tablename__ = "contexts"
    __table_args__ = (Index(None, "tenant", "name", unique=True), {"sqlite_autoincrement": True})

    # Never used twice: one that was deleted and made anew is another.
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    # "" for admins.
    tenant: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    # messages, prompt, documents and tools, those that were given.
    content: Mapped[dict[str, Any]]
    # As requests name models: `name`, `name@alias`, `name@3`, a base model's. Empty: the default base model.
    adapters: Mapped[list[str]]
    # Seconds; None: it is held for ever.
    ttl: Mapped[int | None] = mapped_column(BigInteger)
    # Whether its blocks are held; otherwise they may be evicted, and are computed again when the engine is idle.
    pin: Mapped[bool]
    # As they were counted when it was set: the budget goes by it.
    tokens: Mapped[int] = mapped_column(BigInteger)
    # For each of its base models, by digest; tokens are the most of these.
    tokens_of: Mapped[dict[str, int]] = mapped_column(default=dict, server_default="{}")
    # Of its computation, as a request's: smaller runs first.
    priority: Mapped[int]
    # Requests that named it; written in intervals.
    hits: Mapped[int] = mapped_column(BigInteger, default=0)
    # Of its tokens, those that these requests found cached.
    found_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # Microseconds of the device, estimated: that these tokens spared, and that computing again took what had been lost.
    saved_us: Mapped[int] = mapped_column(BigInteger, server_default="0")
    again_us: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # Its tokens that were held, times the seconds that they were; for each of its models.
    stored_token_seconds: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # Since its content, adapters or ttl were set, plus ttl. None without a ttl.
    expires_at: Mapped[datetime | None]
    # The hold has ended, and the event of it was written.
    expired: Mapped[bool] = mapped_column(default=False)
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
