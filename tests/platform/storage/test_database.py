"""Transactions: durable settings, one writer at a time, nothing half done."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from multiflora_platform.storage import connections
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.tables import EventRow, VersionRow


@pytest.fixture
def database(house):
    return house.registry.database


@pytest.mark.parametrize("backend", ["sqlite"])
async def test_sqlite_is_durable_and_checked(database):
    async with database.read() as session:
        values = {
            name: (await session.execute(text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5_000}


async def test_foreign_keys_hold(database):
    async def orphan(change):
        change.session.add(
            VersionRow(adapter_id=99, number=1, state="ready", base_digest="b", source="s", created_by="t",
                    created_at=change.now, updated_at=change.now)
        )  # fmt: skip

    with pytest.raises(IntegrityError):
        await database.write("test", orphan)


async def events(database):
    async with database.read() as session:
        return [row.type for row in await session.scalars(select(EventRow).order_by(EventRow.id))]


async def test_a_failed_change_leaves_nothing(database):
    async def fails(change):
        change.record("x.y", "x")
        change.after_commit.append(lambda: pytest.fail("nothing was committed"))
        await change.session.flush()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write("test", fails)
    assert await events(database) == []


async def test_writes_take_turns(database):
    inside = 0

    async def work(change):
        nonlocal inside
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        change.record("x.y", "x")
        inside -= 1

    await asyncio.gather(*(database.write("test", work) for _ in range(20)))
    assert len(await events(database)) == 20


async def test_a_cancelled_caller_does_not_tear_a_write_apart(database):
    entered, committed = asyncio.Event(), asyncio.Event()

    async def work(change):
        entered.set()
        await asyncio.sleep(0.01)
        change.record("x.y", "x")
        change.after_commit.append(committed.set)

    caller = asyncio.create_task(database.write("test", work))
    await entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(committed.wait(), 30)
    assert await events(database) == ["x.y"]


async def test_a_reader_sees_one_moment(database):
    async def work(change):
        change.record("x.y", "x")

    async with database.read() as session:
        before = list(await session.scalars(select(EventRow.id)))
        await database.write("test", work)
        assert list(await session.scalars(select(EventRow.id))) == before
    assert len(await events(database)) == len(before) + 1


LONG_QUERY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n"


@pytest.mark.parametrize("cancels", [1, 2, 3])
@pytest.mark.parametrize("moment", ["connecting", "querying"])
def test_a_cancelled_reader_leaves_nothing_to_a_closed_loop(tmp_path, monkeypatch, moment, cancels):
    """The driver's thread has answered all that it was asked before `close` returns."""
    connecting, connect, errors, others = threading.Event(), sqlite3.connect, [], set(threading.enumerate())

    def connect_slowly(*place, **options):
        connecting.set()
        time.sleep(0.1)
        return connect(*place, **options)

    async def read_and_leave():
        database, querying = Database.open(f"sqlite:///{tmp_path / 'db'}"), asyncio.Event()

        async def read():
            async with database.read() as session:
                querying.set()
                await session.execute(text(LONG_QUERY))

        reader = asyncio.create_task(read())
        await (asyncio.to_thread(connecting.wait, 5) if moment == "connecting" else querying.wait())
        for _ in range(cancels):
            for _turn in range(3):  # as far as the clearing away of a query before the next one
                await asyncio.sleep(0)
            reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await database.close()

    monkeypatch.setattr(sqlite3, "connect", connect_slowly)
    monkeypatch.setattr(threading, "excepthook", errors.append)
    asyncio.run(read_and_leave())
    for thread in set(threading.enumerate()) - others:
        thread.join(5)
    assert not errors


@pytest.mark.parametrize("backend", ["sqlite"])
async def test_a_database_locked_by_another_process_is_unavailable(open_house, monkeypatch):
    monkeypatch.setattr(connections, "BUSY_SECONDS", 0)
    house = await open_house()
    other = sqlite3.connect(house.data / "multiflora.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    response = await house.admin.post("/adapters", json={"name": "a"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    other.execute("ROLLBACK")
    other.close()
    monkeypatch.undo()  # the next change may have to wait for its turn behind the registry's own
    assert (await house.admin.post("/adapters", json={"name": "a"})).status_code == 201
