"""One errand for a statement, and what it found and did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from multiflora_platform.storage.connections import open_engine
from multiflora_platform.storage.sqlite_driver import Connection, connect


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT UNIQUE)"))
    yield engine
    await engine.dispose()


class Watched:
    """In place of a connection's queue: notes what its thread is asked."""

    def __init__(self, connection: Connection) -> None:
        self._put = connection._tx.put_nowait
        self.asked = 0

    def put_nowait(self, item: object) -> None:
        self.asked += 1
        self._put(item)  # type: ignore[arg-type]


async def test_a_statement_asks_the_thread_once(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, Connection)
        watched = Watched(driver)
        monkeypatch.setattr(driver, "_tx", watched)
        assert list(await connection.execute(text("SELECT 1 UNION SELECT 2"))) == [(1,), (2,)]
        assert watched.asked == 2, "BEGIN and the query"
    assert watched.asked == 3, "one ROLLBACK, also for the pool"
    monkeypatch.undo()


async def test_what_a_statement_did_is_known(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        one = await connection.execute(text("INSERT INTO t (b) VALUES ('x')"))
        assert (one.rowcount, one.lastrowid) == (1, 1)
        await connection.execute(text("INSERT INTO t (b) VALUES (:b)"), [{"b": "y"}, {"b": "z"}])
        changed = await connection.execute(text("UPDATE t SET b = b || '!' WHERE a > 1"))
        assert changed.rowcount == 2
        gone = await connection.execute(text("DELETE FROM t WHERE a > 1 RETURNING b"))
        assert sorted(gone.scalars()) == ["y!", "z!"]
        assert (await connection.execute(text("SELECT b FROM t"))).scalars().all() == ["x"]


async def test_a_statement_that_fails_leaves_the_connection_usable(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO t (b) VALUES ('x')"))
        with pytest.raises(IntegrityError):
            await connection.execute(text("INSERT INTO t (b) VALUES ('x')"))
        assert (await connection.execute(text("SELECT count(*) FROM t"))).scalar() == 1


async def test_a_connection_that_is_stopped_while_it_closes_is_closed(tmp_path: Path) -> None:
    connection = await connect(str(tmp_path / "x.db"))
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)  # the thread has been asked
    connection.stop()
    async with asyncio.timeout(30):
        await closing
    await asyncio.to_thread(connection._thread.join)
