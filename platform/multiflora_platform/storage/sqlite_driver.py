"""SQLite's connections for asyncio, whose thread is asked once for each statement and brings the rows along.

aiosqlite's own cursors ask it four times, to be made, to execute, to fetch and to be closed; the way to another thread
and back costs more than a small statement.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any

import aiosqlite
from aiosqlite.context import contextmanager

# How many rows aiosqlite's cursors fetch at a time when they are iterated over; ours are not.
_CHUNK = 64


def connect(path: str, **options: Any) -> Connection:
    """Takes what sqlite3.connect takes; the file is opened when the connection is awaited."""
    connection = Connection(lambda: sqlite3.connect(path, **options), _CHUNK)
    # As SQLAlchemy has it: a process that ends does not wait for a connection that was not closed.
    connection._thread.daemon = True
    return connection


class Connection(aiosqlite.Connection):
    """Made by `connect`."""

    @contextmanager
    async def cursor(self) -> Cursor:  # type: ignore[override]  # what SQLAlchemy asks of one, and no more
        return Cursor(self)

    async def rollback(self) -> None:
        """SQLAlchemy asks for one at a transaction's end, and for another as the connection goes back to its pool."""
        if self.in_transaction:
            await super().rollback()

    def stop(self) -> asyncio.Future[Any] | None:
        """The thread ends with the first; another one, of a reader that was cancelled twice, would wait for ever."""
        return super().stop() if self._running else None

    async def ask(self, work: Callable[[sqlite3.Cursor], None]) -> None:
        """Done by the connection's thread, with a cursor of the file's that is closed afterwards."""

        def errand() -> None:
            with closing(self._conn.cursor()) as cursor:
                work(cursor)

        await self._execute(errand)  # type: ignore[no-untyped-call]


class Cursor:
    """description, rowcount, lastrowid: the last statement's, as sqlite3 has them; rows that it found wait here."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Cursor:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        return await self._take(lambda cursor: cursor.execute(statement, parameters))

    async def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        return await self._take(lambda cursor: cursor.executemany(statement, parameters))

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []

    async def _take(self, execute: Callable[[sqlite3.Cursor], object]) -> Cursor:
        def work(cursor: sqlite3.Cursor) -> None:
            execute(cursor)
            self.description = cursor.description
            self._rows = cursor.fetchall() if cursor.description else []
            self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid

        await self._connection.ask(work)
        return self
