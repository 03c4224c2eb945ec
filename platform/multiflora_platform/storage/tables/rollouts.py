"""Rollouts: candidates on their way to an alias."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base


class RolloutRow(Base):
    """A candidate version on its way to an alias. At most one of an alias is running."""

    __tablename__ = "rollouts"
    __table_args__ = (Index(None, "adapter_id", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    alias: Mapped[str] = mapped_column(String(64))
    # Version numbers.
    stable: Mapped[int]
    candidate: Mapped[int]
    # Of the alias's users, those that get the candidate.
    percent: Mapped[int]
    # Of the others' requests, those that run on the candidate, too, unseen by the client.
    shadow_percent: Mapped[int]
    # As schemas/rollouts.py has them; passing one rolls back.
    bounds: Mapped[dict[str, Any]]
    # In the words of who started it, for people.
    why: Mapped[str] = mapped_column(Text, server_default="")
    # As schemas/rollouts.py has it.
    state: Mapped[str] = mapped_column(String(16), index=True)
    # Why it ended, or what it waits for.
    reason: Mapped[str | None] = mapped_column(Text)
    # What was measured until the end; written with it.
    observed: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class RolloutObservationRow(Base):
    """What one server has seen of a running rollout; of PostgreSQL, which keeps it unlogged. Written by
    registry/changes/rollout_evidence.py."""

    __tablename__ = "rollout_observations"

    rollout_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # One start of a server.
    server: Mapped[str] = mapped_column(String(16), primary_key=True)
    # How often it has been written.
    revision: Mapped[int] = mapped_column(BigInteger)
    # JSON, as Observations.written makes it.
    observed: Mapped[str] = mapped_column(Text)
