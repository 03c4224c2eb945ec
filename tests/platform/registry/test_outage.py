"""A database that is stopped or locked: what is loaded is served, changes wait for better times, all recovers."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import contextmanager

import psycopg
import pytest
from tests.platform.registry.house import adapter_files, opening
from tests.platform.registry.postgres import running

from multiflora_platform.storage import connections
from multiflora_platform.storage.connections import with_driver
from multiflora_platform.storage.migrations import upgrade


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """A minute's outage on a shortened clock."""
    monkeypatch.setattr(connections, "BUSY_SECONDS", 0.2)


@contextmanager
def locked(house):
    """Another program holds the lock under which everything is written."""
    if house.database_url.startswith("sqlite"):
        other = sqlite3.connect(house.data / "multiflora.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")
        other.close()
    else:
        address = with_driver(house.database_url).set(drivername="postgresql").render_as_string(False)
        with psycopg.connect(address) as other:
            other.execute("SELECT pg_advisory_xact_lock(1835428978)")
            yield


async def changes(house, number):
    return await asyncio.gather(*(house.admin.post("/adapters", json={"name": f"n{i}"}) for i in range(number)))


async def test_a_locked_database(open_house, monkeypatch):
    house = await open_house()
    await house.adapter("a", 1)
    with locked(house):
        async with asyncio.timeout(60):
            answers = await changes(house, 5)
        for answer in answers:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
        assert house.registry.resolve("a", None).version == 1
        assert (await house.admin.get("/adapters/a")).status_code == 200
        assert (await house.upload("a", adapter_files(2))).status_code == 503
    monkeypatch.undo()
    assert [answer.status_code for answer in await changes(house, 5)] == [201] * 5
    assert (await house.upload("a", adapter_files(2))).json()["version"] == 2
    assert not [path for path in (house.data / "incoming").iterdir() if path.is_dir()]


async def test_a_stopped_server(tmp_path):
    with running() as server:
        if server is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        url = server.create()
        upgrade(url)
        async with opening(tmp_path / "data", url) as open_house:
            house, other = await open_house(), await open_house()
            await house.adapter("a", 1)
            key = (await house.admin.post("/keys", json={"name": "k", "role": "admin"})).json()["key"]
            await other.registry.follower.catch_up()
            server.stop()
            answers = await changes(house, 3)
            assert [answer.status_code for answer in answers] == [503] * 3
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
            assert (await house.admin.get("/versions")).status_code == 503
            for each in (house, other):
                assert each.registry.resolve("a", None).version == 1
                assert each.keys.authenticate(f"Bearer {key}")
            await asyncio.sleep(0.2)
            server.start()
            assert (await house.upload("a", adapter_files(2), params={"promote": "true"})).status_code == 201
            async with asyncio.timeout(30):
                while other.registry.resolve("a", None).version != 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
