"""Reading the outbox: pages after a cursor, and a feed that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import func, select

from multiflora_platform.storage.database import Database
from multiflora_platform.storage.tables import AuditRow, EventRow

KEEPALIVE_SECONDS = 15.0
_BATCH = 500
# Events among which the newest of some types are looked for.
_LOOKED_BACK = 20_000


class Feed:
    """`page` for one look, `follow` for server-sent events; `stop` ends all followers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopped = False

    async def page(self, cursor: int, limit: int) -> list[dict[str, Any]]:
        """Events with id > cursor, oldest first."""
        query = select(EventRow).where(EventRow.id > cursor).order_by(EventRow.id).limit(limit)
        async with self._database.read() as session:
            return [_shown(row) for row in await session.scalars(query)]

    async def newest(self, limit: int, types: Sequence[str]) -> list[dict[str, Any]]:
        """The last events of these types (none: of all), newest first; those of long ago are not looked for."""
        async with self._database.read() as session:
            last = await session.scalar(select(func.max(EventRow.id))) or 0
            query = select(EventRow).where(EventRow.id > last - _LOOKED_BACK)
            if types:
                query = query.where(EventRow.type.in_(types))
            return [_shown(row) for row in await session.scalars(query.order_by(EventRow.id.desc()).limit(limit))]

    async def follow(self, cursor: int) -> AsyncIterator[bytes]:
        """Frames of text/event-stream after the cursor, as long as the server runs; a comment when nothing happens."""
        yield b": events\n\n"
        while not self._stopped:
            seen = self._database.commits
            # A client that leaves does not tear the read apart, which would cost the database its connection.
            events = await asyncio.shield(self._database.begin(self.page(cursor, _BATCH)))
            for event in events:
                cursor = event["id"]
                yield b"id: %d\nevent: %s\ndata: %s\n\n" % (cursor, event["type"].encode(), msgspec.json.encode(event))
            if not events and not await self._database.has_news(seen, KEEPALIVE_SECONDS):
                yield b": keep-alive\n\n"

    def stop(self) -> None:
        self._stopped = True
        self._database.begin(self._database.wake())


def _shown(row: EventRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "type": row.type,
        "adapter": row.adapter,
        "at": row.at.isoformat(),
        "payload": row.payload,
    }


async def audit_page(database: Database, before: int, limit: int, adapter: str | None = None) -> list[dict[str, Any]]:
    """Audit rows, newest first, with id < before. adapter: only those about it, its versions and its aliases."""
    query = select(AuditRow).where(AuditRow.id < before).order_by(AuditRow.id.desc()).limit(limit)
    if adapter is not None:
        # A tenant may have an adapter's name: its own acts are not the adapter's.
        itself = (AuditRow.target == adapter) & AuditRow.action.startswith("adapter.")
        query = query.where(itself | (func.substr(AuditRow.target, 1, len(adapter) + 1) == f"{adapter}@"))
    fields = ("id", "actor", "action", "target", "detail")
    async with database.read() as session:
        rows = await session.scalars(query)
        return [{**{field: getattr(row, field) for field in fields}, "at": row.at.isoformat()} for row in rows]
