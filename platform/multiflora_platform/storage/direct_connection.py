"""One connection to PostgreSQL for single statements that a request waits for: a quarter of what a session takes.

Knows the driver; neither tables nor what is asked. Imported only where the database is PostgreSQL, with its driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine

from multiflora_platform.storage.connections import postgres_arguments
from multiflora_platform.web.problems import Unavailable

# A request waits for the answer; a database that is there gives it within a millisecond.
_PATIENCE_SECONDS = 2.0
# While the database is away, one statement in so many seconds tries it; the others fail at once.
_AGAIN_SECONDS = 0.5


class DirectConnection:
    """Made anew after each failure. Each statement is a transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        """engine: of PostgreSQL, whose address is used."""
        _, address = engine.dialect.create_connect_args(engine.url)
        self._arguments: dict[str, Any] = {
            **address,
            **postgres_arguments(),
            "autocommit": True,
            "prepare_threshold": 1,
        }
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._opening = asyncio.Lock()
        # Monotonic seconds.
        self._away_until = 0.0

    async def rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """What the statement returns, if it returns rows. Raises Unavailable; then it may have been executed or not."""
        if time.monotonic() < self._away_until:
            raise _away()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                connection = await self._opened()
                cursor = await connection.execute(statement, values)
                return await cursor.fetchall() if cursor.description else []
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError, TimeoutError) as error:
            self._away_until = time.monotonic() + _AGAIN_SECONDS
            await self.close()
            raise _away() from error

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def _opened(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        async with self._opening:
            if self._connection is None:
                self._connection = await psycopg.AsyncConnection.connect(**self._arguments)
            return self._connection


def _away() -> Unavailable:
    return Unavailable("The database does not answer; try again.")
