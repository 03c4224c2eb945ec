"""Mirrors that listen to the feed have what the engine has, after any traffic, restarts, gaps and slow reading."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.cache.house import BLOCK, SHARED, House

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.process.cache_followers import CacheFollowers
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import CacheChanges, CacheReply, FollowCache, Ready
from multiflora_platform.insight.mirrors import cache_feed
from multiflora_platform.insight.mirrors.cache_feed import CacheFeed, Events, NumberedChange


class Engine:
    """A scheduler's cache behind the calls of the platform; told to its followers after each use."""

    def __init__(self) -> None:
        self.house: House | None = None
        self.told: list[int] = []
        self.cache_followers = CacheFollowers(self._follow)
        self.during_a_page: list[list[int]] = []
        self.start()

    @property
    def ready(self) -> Ready | None:
        return None if self.house is None else Ready("cpu", "float32", 16, BLOCK, 64, 1, 1, 8, 1, 1)

    def start(self) -> None:
        self.house = House(16)
        self.cache_followers.begin()

    def die(self) -> None:
        self.house = None
        self.cache_followers.end()

    def use(self, ids: list[int]) -> None:
        assert self.house is not None
        self.house.prompt(ids)
        self.tell()

    def tell(self) -> None:
        assert self.house is not None
        if self.told and self.told[-1]:
            self.cache_followers.take(CacheChanges(self.told[-1], self.house.control.changes.take()))

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        if self.house is None:
            raise EngineUnavailable("engine_unavailable", "The engine is restarting.")
        reply = self.house.ask(action, hash, first)
        # What came before the reply was told before it; then more may come before the listener's turn.
        self.tell()
        if self.during_a_page:
            self.use(self.during_a_page.pop())
        await asyncio.sleep(0)
        return reply

    def held(self) -> set[bytes]:
        if self.house is None:
            return set()
        pool = self.house.scheduler.pool
        return {hash for block_id in range(pool.num_blocks) if (hash := pool.hash_of(block_id)) is not None}

    def _follow(self, message: FollowCache) -> None:
        self.told.append(message.following)
        if self.house is not None:
            self.house.control.changes.turn(bool(message.following))


class Mirror:
    def __init__(self) -> None:
        self.hashes: set[bytes] = set()
        self.last = 0

    def apply(self, events: list[NumberedChange]) -> None:
        for event in events:
            assert event.seq >= self.last
            self.last = event.seq
            if event.change is None:
                self.hashes.clear()
                continue
            content = event.change.hashes
            hashes = {content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)}
            self.hashes = self.hashes - hashes if event.change.is_removal else self.hashes | hashes


@pytest.fixture
def feed() -> Iterator[tuple[CacheFeed, Engine]]:
    engine = Engine()
    feed = CacheFeed(cast(Any, engine), most_blocks=12)
    yield feed, engine
    feed.stop()


def some_ids(chance: random.Random) -> list[int]:
    return [*SHARED[: chance.choice((4, 8, 12))], *[chance.randrange(3) for _ in range(chance.randrange(1, 16))]]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers())
async def test_a_mirror_that_polls_has_what_the_engine_has(seed: int) -> None:
    chance, engine, mirror = random.Random(seed), Engine(), Mirror()
    feed = CacheFeed(cast(Any, engine), most_blocks=chance.choice((4, 40)))
    cursor: int | None = None
    for _ in range(12):
        for _ in range(chance.randrange(4)):
            if engine.house is not None:
                engine.use(some_ids(chance))
        if chance.random() < 0.2:
            engine.start() if engine.house is None else engine.die()
        if engine.house is not None and chance.random() < 0.5:
            engine.during_a_page = [some_ids(chance)]
        while True:
            page = await feed.page(cursor, chance.choice((2, 100)), snapshot=cursor is None)
            mirror.apply(page.items)
            if page.position == cursor:
                break
            cursor = page.position
        assert mirror.hashes == engine.held()
    feed.stop()


async def test_one_that_follows_gets_all_first_and_then_what_happens(feed: tuple[CacheFeed, Engine]) -> None:
    events, engine = feed
    engine.use([*SHARED, 1])
    engine.during_a_page = [[*SHARED, *range(30, 39)]]
    mirror, following = Mirror(), events.follow(None, snapshot=True)
    while (part := await anext(following)).position is None:
        mirror.apply(part.items)
    mirror.apply((await anext(following)).items)
    assert mirror.hashes == engine.held()
    engine.use([5] * 9)
    part = await anext(following)
    assert (part.position, len(part.items)) == (events.position, 1)
    engine.die()
    (gone,) = (await anext(following)).items
    assert gone.change is None
    engine.start()
    engine.use([6] * 9)
    mirror.apply([gone, *(await anext(following)).items])
    assert mirror.hashes == engine.held()
    events.stop()
    assert [part async for part in following] == []


async def test_who_asks_for_what_is_not_kept_any_more_begins_again_with_all(feed: tuple[CacheFeed, Engine]) -> None:
    events, engine = feed
    old = (await events.page(None, 10)).position
    assert old is not None
    for first in range(6):
        engine.use([first] * 13)
    page = await events.page(old, 10)
    assert page.items[0].change is None
    mirror = Mirror()
    mirror.apply(page.items)
    assert mirror.hashes == engine.held()
    assert await events.page(page.position, 10) == Events([], page.position)
    assert (await events.page(events.position + 1, 10)).items[0].change is None, "it is of another process"


async def test_the_engine_tells_nothing_before_the_first_listener_and_a_minute_after_the_last(
    monkeypatch: pytest.MonkeyPatch, feed: tuple[CacheFeed, Engine]
) -> None:
    monkeypatch.setattr(cache_feed, "_PATIENCE", 0.0)
    events, engine = feed
    assert engine.told == []
    page = await events.page(None, 10)
    following = events.follow(page.position)
    engine.during_a_page = []
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    engine.use([1] * 9)
    assert len((await waiting).items) == 1
    assert engine.told[-1]
    heard = events.position
    await following.aclose()
    await asyncio.sleep(0.01)
    assert engine.told[-1] == 0
    engine.use([2] * 9)
    assert (await events.page(heard, 10)).items[0].change is None, "what came meanwhile is not known"


async def test_a_quiet_line_gives_signs_of_life(
    monkeypatch: pytest.MonkeyPatch, feed: tuple[CacheFeed, Engine]
) -> None:
    monkeypatch.setattr(cache_feed, "_KEEPALIVE_SECONDS", 0.01)
    following = feed[0].follow(None)
    assert await anext(following) == Events([], feed[0].position)
    await following.aclose()
