"""A mirror over ZeroMQ has what the engine has: by what is published, and by what it asks for again."""

from __future__ import annotations

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

from multiflora_platform.insight.mirrors.cache_feed import CacheFeed
from multiflora_platform.insight.mirrors.zmq_publisher import CannotPublish, address_of, publishing
from multiflora_platform.settings import Settings

_PATIENCE_MS = 20_000


class Mirror:
    """What a program has that applies what it hears, in order."""

    def __init__(self, events: str, replay: str) -> None:
        self.hashes: set[str] = set()
        self.last = -1
        self._context = zmq.asyncio.Context(1)
        self._heard = self._context.socket(zmq.SUB)
        self._heard.subscribe(b"kv")
        self._heard.connect(events)
        self._asked = self._context.socket(zmq.DEALER)
        self._asked.connect(replay)

    async def hear(self, timeout_ms: int) -> bool:
        """One published event; False where none comes in time."""
        if not await self._heard.poll(timeout_ms):
            return False
        topic, number, event = await self._heard.recv_multipart()
        assert topic == b"kv"
        if int.from_bytes(number, "big") > self.last:
            self._apply(number, event)
        return True

    async def ask(self, asked: bytes) -> int:
        """How many events came before the end."""
        await self._asked.send_multipart([b"", asked])
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


@pytest.fixture
async def published(tmp_path: Path) -> AsyncIterator[Any]:
    engine = Engine()
    feed = CacheFeed(cast(Any, engine), most_blocks=12)
    events, replay = f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r"
    async with publishing([feed], dict, events, replay, "kv"):
        mirror = Mirror(events, replay)
        yield SimpleNamespace(engine=engine, feed=feed, mirror=mirror)
        mirror.close()
        feed.stop()


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


async def test_each_engine_has_a_port_of_its_own_and_a_taken_one_is_told(tmp_path: Path) -> None:
    feeds = [CacheFeed(cast(Any, Engine())) for _ in range(2)]
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(CannotPublish, match=f":{port}: Address already in use"):
            async with publishing(feeds, dict, f"tcp://127.0.0.1:{port}", None, ""):
                pass
    (tmp_path / "e-1").mkdir()
    with pytest.raises(CannotPublish, match="/e-1: "):
        async with publishing(feeds, dict, f"ipc://{tmp_path}/e", None, ""):
            pass
    assert address_of("tcp://[::]:5557", 2) == "tcp://[::]:5559"
    assert not any(feed._listeners for feed in feeds)


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
