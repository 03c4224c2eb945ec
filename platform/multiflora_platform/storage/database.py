"""One database: connections, transactions, and the order of writes. Knows the tables of events and audit, no rules.

Writes go one at a time: BEGIN IMMEDIATE on SQLite, an advisory lock on PostgreSQL. So event ids are committed in order
and a reader that follows a cursor misses nothing, whichever process wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from multiflora_platform.storage import migrations
from multiflora_platform.storage.connections import (
    driver_threads,
    open_engine,
    outages_explained,
    patience,
    sessions,
)
from multiflora_platform.storage.tables import AuditRow, EventRow
from multiflora_platform.web.problems import Unavailable

if TYPE_CHECKING:
    from multiflora_platform.storage.direct_connection import DirectConnection

T = TypeVar("T")
_WRITE_LOCK = 0x6D666C72


@dataclass
class Change:
    """One write transaction. Every change of data leaves its event and its audit row through `record`."""

    session: AsyncSession
    # As the audit names it.
    actor: str
    # The transaction's one moment, for every row that it writes.
    now: datetime
    # What the work wants done once the change is durable; before the answer goes out.
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    # Filled by `tell`; their ids are known after the flush.
    events: list[EventRow] = field(default_factory=list)

    def record(self, action: str, target: str, *, adapter: str | None = None, **detail: Any) -> None:
        """action: `noun.verb`, also the event's type. target: what it was done to, for the audit."""
        self.tell(action, adapter=adapter, **detail)
        self.session.add(AuditRow(actor=self.actor, action=action, target=target, detail=detail, at=self.now))

    def tell(self, type: str, *, adapter: str | None = None, **detail: Any) -> None:
        """An event without an audit row: of something that happens by itself, at no actor's command."""
        event = EventRow(type=type, adapter=adapter, payload=detail, at=self.now)
        self.session.add(event)
        self.events.append(event)


class Database:
    """Open with `Database.open(url)`; `read()` for a consistent view, `write(actor, work)` for a change."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader, self._writer = sessions(engine)
        self._driver_threads = driver_threads(engine)
        # Held by the write that runs: within a process, writes queue here instead of at the database.
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        # What adds rows of its own to others' changes; each runs inside the transaction, after the change's work.
        self.before_commit: list[Callable[[Change], Awaitable[None]]] = []
        # Ids of events that this process committed and its follower has not passed yet.
        self.own_events: set[int] = set()
        # Counts this process's commits and those that its follower saw; `changed` is notified with each.
        self.commits = 0
        self.changed = asyncio.Condition()
        # For statements that stand outside the order of writes; None: SQLite, which has no other server to agree with.
        self.direct = _direct(engine)

    @classmethod
    def open(cls, database_url: str) -> Database:
        """database_url: any SQLAlchemy URL of SQLite or PostgreSQL; the driver is chosen here."""
        return cls(open_engine(database_url))

    @classmethod
    async def prepared(cls, database_url: str) -> Database:
        """As `open`, once its schema is this release's. Raises DatabaseOutdated, DatabaseUnusable."""
        await asyncio.to_thread(migrations.prepare, database_url)
        return cls.open(database_url)

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """One moment's view. Raises Unavailable while the database is away."""
        with outages_explained():
            session = AsyncSession(self._reader, expire_on_commit=False)
            try:
                # Connected before the caller reads: a connection whose making is cut off is lost, and its thread
                # answers a loop that may be closed by then.
                await self._finish(session.connection())
                yield session
            finally:
                await self._finish(session.close())

    @asynccontextmanager
    async def read_between_writes(self) -> AsyncIterator[AsyncSession]:
        """Like `read`, while no write of this process runs: what is read is not older than any after_commit."""
        async with self._turn, self.read() as session:
            yield session

    async def write(self, actor: str, work: Callable[[Change], Awaitable[T]]) -> T:
        """Run work in one transaction; what it put in `after_commit` runs before the answer goes out.

        A caller that is cancelled does not tear the transaction apart: it is finished, with its after_commit.
        Raises Unavailable when the database is away or locked by another, InsufficientStorage when the disk is full.
        """
        return await asyncio.shield(self.begin(self._write(actor, work)))

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work on the database that goes on when its caller leaves: `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """A caller that is cancelled meanwhile, however often, leaves when the work has ended, and not before."""
        task = self.begin(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return task.result()

    async def _write(self, actor: str, work: Callable[[Change], Awaitable[T]]) -> T:
        await self._take_turn()
        try:
            with outages_explained():
                async with AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
                    if self._engine.dialect.name == "postgresql":
                        await session.execute(text(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})"))
                    change = Change(session, actor, datetime.now(UTC))
                    result = await work(change)
                    for addition in self.before_commit:
                        await addition(change)
            self.own_events.update(event.id for event in change.events)
            for callback in change.after_commit:
                callback()
        finally:
            self._turn.release()
        await self.wake()
        return result

    async def _take_turn(self) -> None:
        """A locked database would hold up a queue once for each write in it; so none waits longer than twice."""
        try:
            async with asyncio.timeout(2 * patience()):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable("The database is busy or locked; try again.") from None

    async def wake(self) -> None:
        """Let all that wait on `changed` look again; `commits` tells them whether there is something to see."""
        self.commits += 1
        async with self.changed:
            self.changed.notify_all()

    async def has_news(self, seen: int, seconds: float | None) -> bool:
        """Wait for a commit that `commits` did not count when it was `seen`; False when so many seconds pass first."""
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(lambda: self.commits != seen)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Let what was begun end, then close the connections, and wait until their threads have answered all."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self.direct is not None:
            await self.direct.close()
        await self._engine.dispose()
        for thread in self._driver_threads:
            await asyncio.to_thread(thread.join)


def _direct(engine: AsyncEngine) -> DirectConnection | None:
    if engine.dialect.name != "postgresql":
        return None
    # Its driver is there where the database is.
    from multiflora_platform.storage.direct_connection import DirectConnection

    return DirectConnection(engine)
