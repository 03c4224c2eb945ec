"""A context as requests and the keeper see it: immutable, made from its row after each commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from multiflora_platform.storage.tables import ContextRow
from multiflora_platform.web.etags import etag_of
from multiflora_platform.web.problems import InvalidRequest

# Tenant ("" for admins) and name.
ContextKey = tuple[str, str]


class ContextContent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a prompt begins with: a text, or the beginning of a conversation with its documents and tools."""

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    documents: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def is_chat(self) -> bool:
        return self.prompt is None

    @property
    def size(self) -> int:
        """In bytes, as JSON."""
        return len(msgspec.json.encode(self))

    def check(self) -> ContextContent:
        """Raises InvalidRequest."""
        chat = (self.messages, self.documents, self.tools)
        if self.prompt is not None and any(chat):
            raise InvalidRequest("A prompt is text as it is; messages, documents and tools go without it.", pointer="")
        if not self.prompt and not any(chat):
            raise InvalidRequest(
                "The context is empty: send prompt, a text, or messages, documents or tools.", pointer=""
            )
        return self


@dataclass(frozen=True)
class ContextDefinition:
    """What a client sets; the route fills tokens."""

    content: ContextContent
    adapters: tuple[str, ...]
    """As requests name models; none: the base model."""
    ttl: int | None
    """Seconds; None: for ever."""
    pin: bool
    priority: int
    tokens: int

    def blocks(self, block_size: int) -> int:
        """That it takes when all of it is cached."""
        return self.tokens // block_size * max(1, len(self.adapters))


@dataclass(frozen=True)
class ContextEntry:
    id: int
    key: ContextKey
    definition: ContextDefinition
    hits: int
    """Those that the database has."""
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
    definition = ContextDefinition(content, tuple(row.adapters), row.ttl, row.pin, row.priority, row.tokens)
    return ContextEntry(
        row.id,
        (row.tenant, row.name),
        definition,
        row.hits,
        row.expires_at,
        row.expired,
        row.created_by,
        row.created_at,
        row.updated_at,
    )
