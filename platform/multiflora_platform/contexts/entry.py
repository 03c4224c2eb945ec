"""A context as requests and the keeper see it: immutable, made from its row after each commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from multiflora_platform.contexts.content import ContextContent, ContextDefinition
from multiflora_platform.contexts.context_use import USED, ContextUse
from multiflora_platform.storage.tables import ContextRow
from multiflora_platform.web.etags import etag_of

# Tenant ("" for admins) and name.
ContextKey = tuple[str, str]


@dataclass(frozen=True)
class ContextEntry:
    id: int
    key: ContextKey
    definition: ContextDefinition
    use: ContextUse
    """As the database has it."""
    expires_at: datetime | None
    expired: bool
    """It was told that the hold has ended."""
    created_by: str
    created_at: datetime
    updated_at: datetime

    @property
    def tenant(self) -> str | None:
        return self.key[0] or None

    @property
    def name(self) -> str:
        return self.key[1]

    def is_over(self, now: datetime) -> bool:
        return self.expired or (self.expires_at is not None and now >= self.expires_at)

    def is_pinned(self, now: datetime) -> bool:
        return self.definition.pin and not self.is_over(now)

    @property
    def state(self) -> Mapping[str, Any]:
        """What If-Match is about: all that a client or the clock has set."""
        return {"id": self.id, "updated_at": self.updated_at.isoformat(), "expired": self.expired}

    @property
    def etag(self) -> str:
        return etag_of(self.state)


def entry_of(row: ContextRow) -> ContextEntry:
    content = msgspec.convert(row.content, ContextContent)
    definition = ContextDefinition(
        content, tuple(row.adapters), row.ttl, row.pin, row.priority, row.tokens_of, row.tokens
    )
    return ContextEntry(
        row.id,
        (row.tenant, row.name),
        definition,
        ContextUse(*(getattr(row, name) for name in USED)),
        row.expires_at,
        row.expired,
        row.created_by,
        row.created_at,
        row.updated_at,
    )
