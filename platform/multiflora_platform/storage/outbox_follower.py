"""What other processes changed in the same database: noticed within a second, by polling the outbox.

Knows ids of events; each subscriber knows what they mean to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import func, select

from multiflora_platform.storage.connections import sqlite_file
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.file_version import FileVersion
from multiflora_platform.storage.tables import EventRow
from multiflora_platform.web.problems import Unavailable

_log = logging.getLogger(__name__)
POLL_SECONDS = 0.4
_BATCH = 1000

# Told of others' events, oldest first, while no write of this process runs; may read with Database.read.
Subscriber = Callable[[Sequence[EventRow]], Awaitable[None]]


class Follower:
    """`await start()` before anything is read that must not become stale; `subscribe` in any order."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscribers: list[Subscriber] = []
        # Id of the last event that was looked at, own ones included.
        self._cursor = 0
        # Of SQLite's file; None: the database is no file.
        self._file: FileVersion | None = None
        # The file's, when all of its events had been looked at.
        self._followed: int | None = None
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    async def start(self) -> None:
        if (path := sqlite_file(self._database.engine.url)) is not None:
            self._file = FileVersion(path)
        async with self._database.read() as session:
            self._cursor = await session.scalar(select(func.max(EventRow.id))) or 0
        self._database.own_events.clear()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._file is not None:
            self._file.close()

    async def catch_up(self) -> bool:
        """Look once, at a batch of events at most; whether there may be more. Raises Unavailable while the database is
        away."""
        query = select(EventRow).where(EventRow.id > self._cursor).order_by(EventRow.id).limit(_BATCH)
        async with self._database.read_between_writes() as session:
            events = list(await session.scalars(query))
            own = self._database.own_events
            foreign = [event for event in events if event.id not in own]
            for subscriber in self._subscribers if foreign else ():
                await subscriber(foreign)
            own.difference_update(event.id for event in events)
            self._cursor = events[-1].id if events else self._cursor
        if foreign:
            await self._database.wake()
        return len(events) == _BATCH

    async def _look(self) -> None:
        """Catch up, unless SQLite's file is as it was: a query costs a hundred times as much."""
        version = None if self._file is None else self._file.read()
        if version is None or version != self._followed:
            self._followed = None if await self.catch_up() else version

    async def _run(self) -> None:
        lost = False
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._look()
            except Unavailable as error:
                if not lost:
                    _log.warning("the database is away; what is loaded keeps being served: %s", error.detail)
                lost = True
            except Exception:
                _log.exception("following the database failed; trying again")
            else:
                if lost:
                    _log.warning("the database is back")
                lost = False
