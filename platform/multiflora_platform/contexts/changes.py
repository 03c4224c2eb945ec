"""Transactions that make, change, delete and end contexts: one for each request, visible with its commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import select

from multiflora_platform.contexts.book import ContextBook
from multiflora_platform.contexts.budget import BaseRoom, require_room
from multiflora_platform.contexts.content import ContextDefinition
from multiflora_platform.contexts.context_problems import ContextNotFound
from multiflora_platform.contexts.entry import ContextEntry, ContextKey, entry_of
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import ContextRow
from multiflora_platform.web.etags import Precondition


class ContextChanges:
    def __init__(self, database: Database, book: ContextBook) -> None:
        self._database = database
        self._book = book

    async def put(
        self,
        key: ContextKey,
        definition: ContextDefinition,
        rooms: Sequence[BaseRoom],
        expected: Precondition,
        actor: str,
    ) -> bool:
        """True when it was made by this. Raises ContextBudgetFull, PreconditionFailed."""

        async def work(change: Change) -> bool:
            row = await _row(change, key)
            expected.check(_called(key), *(() if row is None else (entry_of(row).etag,)))
            require_room(self._book.all(), key, definition, rooms, change.now)
            is_new = row is None
            if row is None:
                row = ContextRow(tenant=key[0], name=key[1], hits=0, created_by=actor, created_at=change.now)
                change.session.add(row)
            _set(row, definition, change)
            await change.session.flush()
            self._record(change, "context.created" if is_new else "context.updated", key, tokens=definition.tokens)
            self._book.swap(change, key, row)
            return is_new

        return await self._database.write(actor, work)

    async def amend(
        self,
        before: ContextEntry,
        definition: ContextDefinition,
        rooms: Sequence[BaseRoom],
        renews: bool,
        expected: Precondition,
        actor: str,
    ) -> None:
        """before: what the definition was made of. renews: its ttl begins anew.
        Raises ContextNotFound, ContextBudgetFull, PreconditionFailed, also where it was changed meanwhile."""
        key = before.key

        async def work(change: Change) -> None:
            row = await _require(change, key)
            expected.check(_called(key), entry_of(row).etag)
            Precondition(before.etag).check(_called(key), entry_of(row).etag)
            require_room(self._book.all(), key, definition, rooms, change.now)
            expires_at, expired = row.expires_at, row.expired
            _set(row, definition, change)
            if not renews:
                row.expires_at, row.expired = expires_at, expired
            self._record(change, "context.updated", key, tokens=definition.tokens)
            self._book.swap(change, key, row)

        await self._database.write(actor, work)

    async def remove(self, key: ContextKey, expected: Precondition, actor: str) -> None:
        """Raises ContextNotFound, PreconditionFailed."""

        async def work(change: Change) -> None:
            row = await _require(change, key)
            expected.check(_called(key), entry_of(row).etag)
            await change.session.delete(row)
            self._record(change, "context.deleted", key)
            self._book.swap(change, key, None)

        await self._database.write(actor, work)

    async def expire(self, entry: ContextEntry) -> None:
        """Its time is over. Of several servers on a database the first one tells it."""

        async def work(change: Change) -> None:
            row = await change.session.get(ContextRow, entry.id)
            if row is None or row.expired or row.expires_at is None or row.expires_at > change.now:
                return
            row.expired = True
            change.tell("context.expired", **_named(entry.key))
            self._book.swap(change, entry.key, row)

        await self._database.write("system", work)

    async def tell_evicted(self, entry: ContextEntry, lost_tokens: int) -> None:
        """An event alone: this server's cache has lost a part of it."""

        async def work(change: Change) -> None:
            change.tell("context.evicted", **_named(entry.key), lost_tokens=lost_tokens)

        await self._database.write("system", work)

    def _record(self, change: Change, action: str, key: ContextKey, **detail: Any) -> None:
        change.record(action, f"{key[0] or 'admin'}/{key[1]}", **_named(key), **detail)


def _set(row: ContextRow, definition: ContextDefinition, change: Change) -> None:
    row.content = msgspec.to_builtins(definition.content)
    row.adapters = list(definition.adapters)
    row.ttl, row.pin, row.priority = definition.ttl, definition.pin, definition.priority
    row.tokens_of, row.tokens = dict(definition.tokens_of), definition.tokens
    row.updated_at = change.now
    row.expires_at = None if definition.ttl is None else change.now + timedelta(seconds=definition.ttl)
    row.expired = False


async def _row(change: Change, key: ContextKey) -> ContextRow | None:
    query = select(ContextRow).where(ContextRow.tenant == key[0], ContextRow.name == key[1])
    return (await change.session.execute(query)).scalar_one_or_none()


async def _require(change: Change, key: ContextKey) -> ContextRow:
    row = await _row(change, key)
    if row is None:
        raise no_context(key[1])
    return row


def no_context(name: str) -> ContextNotFound:
    return ContextNotFound(f"There is no context named {name[:80]!r}; GET /api/v1/contexts lists them.")


def _called(key: ContextKey) -> str:
    return f"Context {key[1]!r}"


def _named(key: ContextKey) -> dict[str, Any]:
    return {"context": key[1], "tenant": key[0] or None}
