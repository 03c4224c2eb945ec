"""Where a server counts its tenants' limits: with the others of its database, or alone."""

from __future__ import annotations

from multiflora_platform.auth.limits.limits import Limits
from multiflora_platform.auth.limits.memory import MemoryLimits
from multiflora_platform.auth.limits.shared import SharedLimits
from multiflora_platform.storage.database import Database


def open_limits(database: Database) -> Limits:
    """A file of SQLite has one server, which asks no other. Call inside the event loop."""
    if database.direct is None:
        return MemoryLimits()
    limits = SharedLimits(database.direct)
    limits.start()
    return limits
