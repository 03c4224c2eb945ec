"""When the follower asks the database, and when SQLite's file tells it enough."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from multiflora_platform.storage import outbox_follower
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.file_version import FileVersion
from multiflora_platform.storage.migrations import upgrade
from multiflora_platform.storage.outbox_follower import Follower
from multiflora_platform.web.problems import Unavailable


class Watched(Follower):
    """Counts its queries; `fails` of them find the database away."""

    queries = 0
    fails = 0

    async def catch_up(self) -> bool:
        self.queries += 1
        if self.fails:
            self.fails -= 1
            raise Unavailable("away")
        return await super().catch_up()


class Looks:
    """Counts the looks at a file's version; they show how often a follower was awake."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, read = 0, FileVersion.read

        def counted(version: FileVersion) -> int | None:
            self.count += 1
            return read(version)

        monkeypatch.setattr(FileVersion, "read", counted)

    async def some_more(self) -> None:
        until = self.count + 5
        while self.count < until:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    monkeypatch.setattr(outbox_follower, "POLL_SECONDS", 0.001)
    return Looks(monkeypatch)


@asynccontextmanager
async def following(folder: Path, fails: int = 0) -> AsyncIterator[tuple[Database, Watched]]:
    url = f"sqlite:///{folder / 'x.db'}"
    upgrade(url)
    database = Database.open(url)
    follower = Watched(database)
    follower.fails = fails
    await follower.start()
    yield database, follower
    await follower.close()
    await database.close()


async def test_a_file_without_commits_is_not_queried(tmp_path: Path, looks: Looks) -> None:
    async with following(tmp_path) as (database, follower):
        await looks.some_more()
        assert follower.queries == 1, "the first look"

        async def work(change: Change) -> None:
            change.tell("x.y")

        await database.write("test", work)
        await looks.some_more()
        assert (follower.queries, database.own_events) == (2, set())


async def test_another_program_s_commit_is_followed(tmp_path: Path, looks: Looks) -> None:
    told = asyncio.Event()
    async with following(tmp_path) as (_, follower):

        async def tell(events: object) -> None:
            told.set()

        follower.subscribe(tell)
        await looks.some_more()
        with sqlite3.connect(tmp_path / "x.db") as other:
            other.execute("INSERT INTO events (type, payload, at) VALUES ('x.y', '{}', '2026-01-01 00:00:00')")
        other.close()
        async with asyncio.timeout(30):
            await told.wait()


async def test_what_one_look_cannot_take_in_the_next_ones_do(
    tmp_path: Path, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_follower, "_BATCH", 1)
    async with following(tmp_path) as (database, follower):
        await looks.some_more()

        async def work(change: Change) -> None:
            for number in range(3):
                change.tell(f"x.{number}")

        await database.write("test", work)
        await looks.some_more()
        assert (follower.queries, database.own_events) == (1 + 4, set())


async def test_what_could_not_be_read_is_read_later_although_nothing_is_committed(tmp_path: Path, looks: Looks) -> None:
    async with following(tmp_path, fails=2) as (_, follower):
        await looks.some_more()
        assert follower.queries == 3


def test_a_file_that_cannot_be_read_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database" * 100)
    version = FileVersion(tmp_path / "x.db")
    assert version.read() is None
    version.close()
