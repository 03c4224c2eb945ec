"""One database: connections, transactions, and the order of writes. Knows the tables of events and audit, no rules.

Writes go one at a time: BEGIN IMMEDIATE on SQLite, an advisory lock on PostgreSQL. So event ids are committed in order
and a reader that follows a cursor misses nothing.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event, make_url, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from multiflora_platform.registry.errors import InsufficientStorage, Unavailable
from multiflora_platform.registry.tables import AuditRow, Event

T = TypeVar("T")
BUSY_SECONDS = 30
_WRITE_LOCK = 0x6D666C72


def private_folder(path: Path) -> Path:
    """Make the folder (0700), and close it to others if it was there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def private_database(url: URL) -> None:
    """Create SQLite's file as 0600 before SQLite does; its journal files take the same mode."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return
    path = Path(url.database)
    if not path.parent.exists():
        private_folder(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def sqlite_pragmas(connection: Any) -> None:
    """Durable and concurrent: WAL, a real fsync at each commit, foreign keys, and our own BEGIN."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout = {BUSY_SECONDS * 1000}", "journal_mode = WAL", "synchronous = FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


@dataclass
class Change:
    """One write transaction. Every change of data leaves its event and its audit row through `record`."""

    session: AsyncSession
    actor: str
    now: datetime
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    def record(self, action: str, target: str, *, adapter: str | None = None, **detail: Any) -> None:
        """action: `noun.verb`, also the event's type. target: what it was done to, for the audit."""
        self.session.add(Event(type=action, adapter=adapter, payload=detail, at=self.now))
        self.session.add(AuditRow(actor=self.actor, action=action, target=target, detail=detail, at=self.now))


class Database:
    """Open with `Database.open(url)`; `read()` for a consistent view, `write(actor, work)` for a change."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(write=True)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.commits = 0
        self.changed = asyncio.Condition()

    @classmethod
    def open(cls, database_url: str) -> Database:
        """database_url: any SQLAlchemy URL of SQLite or PostgreSQL; the async driver is chosen here."""
        url = make_url(database_url)
        sqlite = url.get_backend_name() == "sqlite"
        if sqlite:
            private_database(url)
            url = url.set(drivername="sqlite+aiosqlite")
        engine = create_async_engine(url)
        if sqlite:
            event.listen(engine.sync_engine, "connect", lambda connection, _: sqlite_pragmas(connection))
            event.listen(engine.sync_engine, "begin", _begin)
        return cls(engine)

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            yield session

    async def write(self, actor: str, work: Callable[[Change], Awaitable[T]]) -> T:
        """Run work in one transaction; what it put in `after_commit` runs before anybody sees the answer.

        A caller that is cancelled does not tear the transaction apart: it is finished, with its after_commit.
        Raises Unavailable when another process keeps the database locked, InsufficientStorage when the disk is full.
        """
        task = asyncio.create_task(self._write(actor, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _write(self, actor: str, work: Callable[[Change], Awaitable[T]]) -> T:
        async with self._turn:
            try:
                async with AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
                    if self._engine.dialect.name == "postgresql":
                        await session.execute(text(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})"))
                    change = Change(session, actor, datetime.now(UTC))
                    result = await work(change)
            except OperationalError as error:
                raise _explained(error) from error
            for callback in change.after_commit:
                callback()
        await self.wake()
        return result

    async def wake(self) -> None:
        """Let everybody who waits on `changed` look again; `commits` tells them whether there is something to see."""
        self.commits += 1
        async with self.changed:
            self.changed.notify_all()

    async def close(self) -> None:
        """Let running writes end, then close the connections."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.dispose()


def _begin(connection: Connection) -> None:
    mode = "IMMEDIATE" if connection.get_execution_options().get("write") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


def _explained(error: OperationalError) -> Exception:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("The database is locked by another process; try again.")
    if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
        return InsufficientStorage("The disk that holds the database is full; free some space and try again.")
    return error
