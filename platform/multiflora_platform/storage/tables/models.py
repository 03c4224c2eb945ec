"""Base models that were added while a server ran."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base


class ModelRow(Base):
    """One base model that a server on this database loads at its start, beside the one that its settings name. Written
    by base_models/kept_models.py."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    # A hub id, or a folder of the server's machine.
    source: Mapped[str] = mapped_column(Text)
    # Settings of `serve` for this model alone, by their keys.
    options: Mapped[dict[str, Any]]
    min_replicas: Mapped[int]
    max_replicas: Mapped[int]
    # None: its engines stay.
    idle_seconds: Mapped[float | None]
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
