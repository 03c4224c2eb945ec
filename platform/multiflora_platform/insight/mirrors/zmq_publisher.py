"""The cache's events over ZeroMQ: published as they happen, and sent again to mirrors that ask.

The frames are those of vLLM's publisher; what they hold are the events of /api/v1/cache/events, each engine's under a
topic of its own. Sockets have no keys: what reaches the address may read hashes and tenants' names.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import zmq
import zmq.asyncio

from multiflora_platform.engine import NamedEngine, ReplicaHandle
from multiflora_platform.insight.mirrors.cache_events import Owners, shown
from multiflora_platform.insight.mirrors.cache_feed import CacheFeed, NumberedChange
from multiflora_platform.insight.mirrors.cache_feeds import CacheFeeds

_log = logging.getLogger(__name__)
_NUMBER_BYTES = 8
_END = (-1).to_bytes(_NUMBER_BYTES, "big", signed=True)
# Messages that wait for one slow subscriber; what is beyond is lost to it, which its numbers show.
_MOST_WAITING = 100_000
_AT_ONCE = 1000
_LOOK_SECONDS = 1.0
_LOOPBACK = re.compile(r"ipc://|tcp://(127\.|localhost:|\[::1\])")
_Socket = zmq.asyncio.Socket


class CannotPublish(Exception):
    """The address cannot be bound; says which, and why."""


class CacheEventsPublisher:
    """Of all engines of the base models, which come and go. `open` it, then `start` it in the event loop, and `close`
    it. topic: what each engine's topic begins with."""

    def __init__(self, feeds: CacheFeeds, bases: Iterable[NamedEngine], owners: Owners, topic: str) -> None:
        self._feeds = feeds
        self._bases = bases
        self._owners = owners
        self._topic = topic
        self._context = zmq.asyncio.Context(1)
        self._tasks: list[asyncio.Task[None]] = []
        # Of each engine that is published, by its topic.
        self._published: dict[bytes, CacheFeed] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        self._heard: _Socket | None = None
        self._asked: _Socket | None = None

    def open(self, endpoint: str, replay_endpoint: str | None) -> None:
        """Raises CannotPublish."""
        try:
            self._heard = self._bound(zmq.PUB, endpoint, _MOST_WAITING)
            if replay_endpoint is not None:
                # An answer with a hole would be worse than none.
                self._asked = self._bound(zmq.ROUTER, replay_endpoint, 0)
        except CannotPublish:
            self._context.destroy(linger=0)
            raise

    def start(self) -> None:
        assert self._heard is not None, "it is open"
        self._tasks = [asyncio.create_task(self._follow_engines(self._heard))]
        if self._asked is not None:
            self._tasks.append(asyncio.create_task(self._answer(self._asked)))

    async def close(self) -> None:
        tasks = [*self._tasks, *self._publishing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    def _bound(self, kind: int, endpoint: str, most_waiting: int) -> _Socket:
        socket = self._context.socket(kind)
        socket.set_hwm(most_waiting)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise CannotPublish(f"{endpoint}: {zmq.strerror(error.errno or 0)}") from None
        return socket

    # ---- what is published

    async def _follow_engines(self, socket: _Socket) -> None:
        while True:
            for base in self._bases:
                for replica in base.engine.replicas:
                    self._begin(socket, replica)
            await asyncio.sleep(_LOOK_SECONDS)

    def _begin(self, socket: _Socket, replica: ReplicaHandle) -> None:
        topic, feed = f"{self._topic}{replica.group}/{replica.id}".encode(), self._feeds.of(replica)
        if self._published.get(topic) is feed:
            return
        self._published[topic] = feed
        task = asyncio.create_task(self._publish(socket, topic, feed))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, socket: _Socket, topic: bytes, feed: CacheFeed) -> None:
        """One message for each event: topic, number, event. The first is `cleared`: who has not heard of the engine
        asks for what it has cached by then, and who had mirrored one of the same name begins anew."""
        joined = (await feed.page(None, 0)).position
        assert joined is not None, "a page is whole"
        await self._send(socket, topic, feed, [NumberedChange(joined, None)])
        async for events in feed.follow(joined):
            await self._send(socket, topic, feed, events.items)
        if self._published.get(topic) is feed:
            del self._published[topic]

    async def _send(self, socket: _Socket, topic: bytes, feed: CacheFeed, changes: Sequence[NumberedChange]) -> None:
        for number, event in self._encoded(feed, changes):
            await socket.send_multipart((topic, number, event))

    # ---- what is asked for

    async def _answer(self, socket: _Socket) -> None:
        """Each request is the number of the first event that is missing and the engine's topic, which may be left out
        where there is one engine; a DEALER's may have an empty frame before."""
        while True:
            client, *frames = await socket.recv_multipart()
            num_empty = int(len(frames) > 1 and not frames[0])
            address, asked = [client, *frames[:num_empty]], frames[num_empty:]
            try:
                await self._send_missing(socket, address, *asked[:2])
            except Exception:  # one mirror's trouble is none of the others'
                _log.exception("a mirror of the cache could not be answered")

    async def _send_missing(
        self, socket: _Socket, address: Sequence[bytes], asked: bytes = b"", topic: bytes | None = None
    ) -> None:
        """All from that number on, or `cleared` and all that is cached where that is not kept; then the end."""
        feed = self._found(topic)
        if len(asked) != _NUMBER_BYTES:
            _log.debug("a mirror asked for %d bytes, which is no number of an event", len(asked))
        elif feed is None:
            await socket.send_multipart([*address, _END, self._engines()])
        else:
            async for number, event in self._missing(feed, int.from_bytes(asked, "big") - 1):
                await socket.send_multipart([*address, number, event])
        await socket.send_multipart([*address, _END, b""])

    def _found(self, topic: bytes | None) -> CacheFeed | None:
        """None: the mirror has to name another one, or one at all."""
        if topic is not None or len(self._published) != 1:
            return self._published.get(topic or b"")
        return next(iter(self._published.values()))

    def _engines(self) -> bytes:
        """What tells a mirror which topics there are."""
        return msgspec.json.encode({"type": "engines", "topics": [topic.decode() for topic in self._published]})

    async def _missing(self, feed: CacheFeed, position: int) -> AsyncIterator[tuple[bytes, bytes]]:
        while (page := await feed.page(position, _AT_ONCE)).items:
            for one in self._encoded(feed, page.items):
                yield one
            assert page.position is not None, "a page is whole"
            position = page.position

    def _encoded(self, feed: CacheFeed, changes: Sequence[NumberedChange]) -> Iterator[tuple[bytes, bytes]]:
        """Of each event its number, and what the live feed of /api/v1/cache/events has as data."""
        for event in shown(feed, self._owners, changes):
            yield event.seq.to_bytes(_NUMBER_BYTES, "big"), msgspec.json.encode(event)


@asynccontextmanager
async def publishing(
    publisher: CacheEventsPublisher, endpoint: str, replay_endpoint: str | None
) -> AsyncIterator[None]:
    """Raises CannotPublish."""
    if not _LOOPBACK.match(endpoint):
        _log.warning("The cache's events are published at %s: every host that reaches it may read them.", endpoint)
    publisher.open(endpoint, replay_endpoint)
    publisher.start()
    try:
        yield
    finally:
        await publisher.close()
