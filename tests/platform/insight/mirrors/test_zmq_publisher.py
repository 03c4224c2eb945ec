"""A mirror over ZeroMQ has what the engines have: by what is published, and by what it asks for again."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zmq
import zmq.asyncio
from tests.platform.insight.mirrors.test_cache_feed import Engine, some_ids

from multiflora_platform.insight.mirrors import zmq_publisher
from multiflora_platform.insight.mirrors.cache_feeds import CacheFeeds
from multiflora_platform.insight.mirrors.zmq_publisher import CacheEventsPublisher, CannotPublish, publishing
from multiflora_platform.settings import Settings

_PATIENCE_MS = 20_000


class Mirror:
    """What a program has that applies what it hears of one engine, in order."""

    def __init__(self, events: str, replay: str, topic: bytes = b"kv/base/0") -> None:
        self.hashes: set[str] = set()
        self.last = -1
        self._topic = topic
        self._context = zmq.asyncio.Context(1)
        self._heard = self._context.socket(zmq.SUB)
        self._heard.subscribe(topic)
        self._heard.connect(events)
        self._asked = self._context.socket(zmq.DEALER)
        self._asked.connect(replay)

    async def hear(self, timeout_ms: int) -> bool:
        """One published event; False where none comes in time."""
        if not await self._heard.poll(timeout_ms):
            return False
        topic, number, event = await self._heard.recv_multipart()
        assert topic == self._topic
        if int.from_bytes(number, "big") > self.last:
            self._apply(number, event)
        return True

    async def ask(self, asked: bytes) -> int:
        """How many events came before the end."""
        await self._asked.send_multipart([b"", asked, self._topic])
        for count in range(10_000):
            assert await self._asked.poll(_PATIENCE_MS)
            _, number, event = await self._asked.recv_multipart()
            if not event:
                assert int.from_bytes(number, "big", signed=True) == -1
                return count
            self._apply(number, event)
        raise AssertionError("the answer has no end")

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _apply(self, number: bytes, content: bytes) -> None:
        event = json.loads(content)
        self.last = int.from_bytes(number, "big")
        assert event["seq"] == self.last
        if event["type"] == "cleared":
            self.hashes.clear()
        elif event["type"] == "stored":
            self.hashes |= {*event["hashes"]}
        else:
            self.hashes -= {*event["hashes"]}


def numbered(number: int) -> bytes:
    return number.to_bytes(8, "big")


def held(engine: Engine) -> set[str]:
    return {hash.hex() for hash in engine.held()}


class Base:
    """A base model with its engines, as far as they are mirrored."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.engine = SimpleNamespace(replicas=[self.made(number) for number in range(count)])

    def made(self, number: int) -> Engine:
        engine = cast(Any, Engine())
        engine.group, engine.id = self.name, str(number)
        return cast(Engine, engine)


def publisher_of(bases: list[Base], feeds: CacheFeeds | None = None, topic: str = "kv/") -> CacheEventsPublisher:
    return CacheEventsPublisher(feeds or CacheFeeds(), cast(Any, bases), dict, topic)


@pytest.fixture
async def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A base model with one engine, and a mirror of it."""
    monkeypatch.setattr(zmq_publisher, "_LOOK_SECONDS", 0.01)
    bases, feeds = [Base("base", 1)], CacheFeeds()
    events, replay = f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r"
    async with publishing(publisher_of(bases, feeds), events, replay):
        mirror = Mirror(events, replay)
        (engine,) = bases[0].engine.replicas
        yield SimpleNamespace(engine=engine, bases=bases, feeds=feeds, mirror=mirror, events=events, replay=replay)
        mirror.close()
        feeds.stop()


async def test_a_mirror_has_what_the_engine_has_after_random_traffic(published: Any) -> None:
    chance, engine, mirror = random.Random(5), published.engine, published.mirror
    heard = 0
    for turn in range(60):
        if turn % 20 == 19:
            engine.start() if engine.house is None else engine.die()
        for _ in range(chance.randrange(3)):
            if engine.house is not None:
                engine.use(some_ids(chance))
        if turn % 7 == 0:
            await mirror.ask(numbered(mirror.last + 1))
            assert mirror.hashes == held(engine)
        while await mirror.hear(0):
            heard += 1
    assert mirror.hashes or engine.house is None
    if engine.house is None:
        engine.start()
    while not heard:  # a subscription that was slow to begin hears of what comes then
        engine.use(some_ids(chance))
        heard += await mirror.hear(10)


async def test_what_is_asked_for_again_goes_on_where_that_is_kept_and_begins_with_all_otherwise(published: Any) -> None:
    engine, mirror = published.engine, published.mirror
    engine.use([1] * 8)
    assert await mirror.ask(numbered(0)) >= 2, "cleared, and all that is cached"
    assert mirror.hashes == held(engine)
    assert await mirror.ask(numbered(mirror.last + 1)) == 0
    engine.use([2] * 8)
    assert await mirror.ask(numbered(mirror.last + 1)) == 1
    assert mirror.hashes == held(engine)
    mirror.hashes.add("left over")
    await mirror.ask(numbered(2**63))
    assert mirror.hashes == held(engine), "a number that never was begins with all, too"


@pytest.mark.parametrize("asked", [b"", b"x", b"0" * 9])
async def test_what_is_no_number_gets_nothing_and_hurts_no_other(published: Any, asked: bytes) -> None:
    published.engine.use([1] * 8)
    assert await published.mirror.ask(asked) == 0
    await published.mirror.ask(numbered(0))
    assert published.mirror.hashes == held(published.engine)


async def topics_of(replay: str, *asked: bytes) -> list[str] | None:
    """What a mirror is told that has to name an engine; None where it is not told."""
    with zmq.asyncio.Context(1) as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(replay)
        await socket.send_multipart([b"", *asked])
        found = None
        while event := (await socket.recv_multipart())[2]:
            content = json.loads(event)
            found = sorted(content["topics"]) if content["type"] == "engines" else found
        return found


async def until_topics(published: Any, topics: list[str]) -> None:
    while await topics_of(published.replay, numbered(0), b"no engine") != topics:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_engines_of_all_base_models_are_told_of_apart_by_name(published: Any) -> None:
    """Also of a base model that is loaded later, with caches, as a gateway finds engines."""
    assert await topics_of(published.replay, numbered(0)) is None, "where there is one it need not be named"
    assert await topics_of(published.replay, numbered(0), b"kv/other/0") == ["kv/base/0"]
    other = Base("other", 2)
    for number, engine in enumerate(other.engine.replicas):
        engine.use([number] * 8)
    published.bases.append(other)
    await until_topics(published, ["kv/base/0", "kv/other/0", "kv/other/1"])
    for number, engine in enumerate(other.engine.replicas):
        mirror = Mirror(published.events, published.replay, b"kv/other/%d" % number)
        await mirror.ask(numbered(0))
        assert mirror.hashes == held(engine)
        mirror.close()
    await published.mirror.ask(numbered(0))
    assert not published.mirror.hashes


async def test_who_listens_hears_of_an_engine_that_joins_and_of_its_end(published: Any) -> None:
    other = Base("other", 1)
    (engine,) = other.engine.replicas
    mirror = Mirror(published.events, published.replay, b"kv/other/0")
    published.bases.append(other)
    while not await mirror.hear(20):  # until the publisher knows of the subscription
        published.feeds.forget([engine])
    assert mirror.last > 0
    assert not mirror.hashes, "what it has is asked for"
    while await mirror.hear(0):
        pass
    engine.use([1] * 8)
    assert await mirror.hear(_PATIENCE_MS)
    assert mirror.hashes == held(engine)
    engine.use([2] * 8)
    published.bases.remove(other)
    engine.die()
    published.feeds.forget([engine])
    while mirror.hashes:
        assert await mirror.hear(_PATIENCE_MS), "the last that is said of an engine is that its cache is gone"
    await until_topics(published, ["kv/base/0"])
    mirror.close()


async def test_a_taken_address_is_told(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(CannotPublish, match=f":{port}: Address already in use"):
            async with publishing(publisher_of([]), f"tcp://127.0.0.1:{port}", None):
                pass
    (tmp_path / "r").mkdir()
    with pytest.raises(CannotPublish, match="/r: "):
        async with publishing(publisher_of([]), f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r"):
            pass


def test_what_is_no_address_and_events_of_no_cache_are_refused() -> None:
    for wrong in (
        {"cache_events_zmq": "http://*:5557"},
        {"cache_events_zmq": "tcp://*"},
        {"cache_events_zmq": ""},
        {"cache_events_replay_zmq": "tcp://*:5558"},
        {"cache_events_zmq": "tcp://*:5557", "enable_prefix_caching": False},
    ):
        with pytest.raises(ValueError, match="cache_events"):
            Settings(**wrong)  # type: ignore[arg-type]
