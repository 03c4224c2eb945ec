"""All contexts in memory, for requests and for the keeper; swapped after each commit. Knows no engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.contexts.context_use import USED, ContextUse
from multiflora_platform.contexts.entry import ContextEntry, ContextKey, entry_of
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.outbox_follower import Follower
from multiflora_platform.storage.tables import ContextRow, EventRow


class ContextBook:
    """`load` it at the start. changed: set with every change; the keeper clears it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Replaced, never changed: a request that reads meanwhile sees one state or the other.
        self._entries: Mapping[ContextKey, ContextEntry] = {}
        # What the database does not know yet, by the context's id.
        self._uses: dict[int, ContextUse] = {}
        self.changed = asyncio.Event()

    def find(self, key: ContextKey) -> ContextEntry | None:
        return self._entries.get(key)

    def all(self) -> list[ContextEntry]:
        """By tenant and name."""
        return [self._entries[key] for key in sorted(self._entries)]

    def use(self, entry: ContextEntry) -> ContextUse:
        return entry.use + self._uses.get(entry.id, ContextUse())

    def count(self, id: int, use: ContextUse) -> None:
        """id: of the context."""
        self._uses[id] = self._uses.get(id, ContextUse()) + use

    async def load(self, follower: Follower) -> None:
        """follower: has been started; it tells of other processes' changes from before the first look on."""
        follower.subscribe(self._follow)
        async with self._database.read_between_writes() as session:
            await self._read(session)

    def swap(self, change: Change, key: ContextKey, row: ContextRow | None) -> None:
        """The context is as this row says (None: there is none) from the commit on."""

        def visible() -> None:
            rest = {other: entry for other, entry in self._entries.items() if other != key}
            self._show(rest if row is None else {**rest, key: entry_of(row)})

        change.after_commit.append(visible)

    async def flush(self) -> None:
        """Writes what the database does not know of uses, and learns of other servers'. Raises Unavailable."""
        if not self._uses:
            return

        async def work(change: Change) -> None:
            # Taken here, where one write runs at a time: a flush whose caller left is finished before the next.
            taken = dict(self._uses)
            for id, use in taken.items():
                sums = {name: getattr(ContextRow, name) + getattr(use, name) for name in USED}
                await change.session.execute(update(ContextRow).where(ContextRow.id == id).values(**sums))
            rows = await change.session.execute(select(ContextRow.id, *(getattr(ContextRow, name) for name in USED)))
            known = {id: ContextUse(*counts) for id, *counts in rows}
            change.after_commit.append(lambda: self._flushed(taken, known))

        await self._database.write("system", work)

    def _flushed(self, taken: Mapping[int, ContextUse], known: Mapping[int, ContextUse]) -> None:
        """known: each context's by its id, as the database has them. No keeper has to look because of them."""
        rest = {id: use - taken.get(id, ContextUse()) for id, use in self._uses.items()}
        self._uses = {id: use for id, use in rest.items() if use != ContextUse()}
        entries = self._entries.items()
        self._entries = {key: replace(entry, use=known.get(entry.id, entry.use)) for key, entry in entries}

    async def _follow(self, events: Sequence[EventRow]) -> None:
        """Another process's events."""
        if any(event.type.startswith("context.") for event in events):
            async with self._database.read() as session:
                await self._read(session)

    async def _read(self, session: AsyncSession) -> None:
        self._show({entry.key: entry for entry in map(entry_of, await session.scalars(select(ContextRow)))})

    def _show(self, entries: Mapping[ContextKey, ContextEntry]) -> None:
        self._entries = entries
        self.changed.set()
