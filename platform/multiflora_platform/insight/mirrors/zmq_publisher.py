"""The cache's events over ZeroMQ: published as they happen, and sent again to mirrors that ask.

The frames are those of vLLM's publisher; what they hold are the events of /api/v1/cache/events. Sockets have no keys:
what reaches the address may read hashes and tenants' names.
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

from multiflora_platform.insight.mirrors.cache_events import Owners, shown
from multiflora_platform.insight.mirrors.cache_feed import CacheFeed, NumberedChange

_log = logging.getLogger(__name__)
_END = (-1).to_bytes(8, "big", signed=True)
# Messages that wait for one slow subscriber; what is beyond is lost to it, which its numbers show.
_MOST_WAITING = 100_000
_AT_ONCE = 1000
_LOOPBACK = re.compile(r"ipc://|tcp://(127\.|localhost:|\[::1\])")
_Socket = zmq.asyncio.Socket


class CannotPublish(Exception):
    """The address cannot be bound; says which, and why."""


class CacheEventsPublisher:
    """Of one engine. `open` it, then `start` it in the event loop, and `close` it."""

    def __init__(self, feed: CacheFeed, owners: Owners, topic: str) -> None:
        self._feed = feed
        self._owners = owners
        self._topic = topic.encode()
        self._context = zmq.asyncio.Context(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._published: _Socket | None = None
        self._asked: _Socket | None = None

    def open(self, endpoint: str, replay_endpoint: str | None) -> None:
        """Raises CannotPublish."""
        try:
            self._published = self._bound(zmq.PUB, endpoint, _MOST_WAITING)
            if replay_endpoint is not None:
                # An answer with a hole would be worse than none.
                self._asked = self._bound(zmq.ROUTER, replay_endpoint, 0)
        except CannotPublish:
            self._context.destroy(linger=0)
            raise

    def start(self) -> None:
        assert self._published is not None, "it is open"
        self._tasks = [asyncio.create_task(self._publish(self._published))]
        if self._asked is not None:
            self._tasks.append(asyncio.create_task(self._answer(self._asked)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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

    async def _publish(self, socket: _Socket) -> None:
        """One message for each event: topic, number, event."""
        async for events in self._feed.follow(None):
            for number, event in self._encoded(events.items):
                await socket.send_multipart((self._topic, number, event))

    async def _answer(self, socket: _Socket) -> None:
        """Each request is the number of the first event that is missing; a DEALER's may have an empty frame before."""
        while True:
            client, *envelope, asked = await socket.recv_multipart()
            try:
                await self._send_missing(socket, [client, *envelope], asked)
            except Exception:  # one mirror's trouble is none of the others'
                _log.exception("a mirror of the cache could not be answered")

    async def _send_missing(self, socket: _Socket, address: Sequence[bytes], asked: bytes) -> None:
        """All from that number on, or `cleared` and all that is cached where that is not kept; then the end."""
        if len(asked) != len(_END):
            _log.debug("a mirror asked for %d bytes, which is no number of an event", len(asked))
            position = self._feed.position
        else:
            position = int.from_bytes(asked, "big") - 1
        while True:
            page = await self._feed.page(position, _AT_ONCE)
            if not page.items:
                break
            for number, event in self._encoded(page.items):
                await socket.send_multipart([*address, number, event])
            assert page.position is not None, "a page is whole"
            position = page.position
        await socket.send_multipart([*address, _END, b""])

    def _encoded(self, changes: Sequence[NumberedChange]) -> Iterator[tuple[bytes, bytes]]:
        """Of each event its number, and what the live feed of /api/v1/cache/events has as data."""
        for event in shown(self._feed, self._owners, changes):
            yield event.seq.to_bytes(8, "big"), msgspec.json.encode(event)


@asynccontextmanager
async def publishing(
    feeds: Iterable[CacheFeed], owners: Owners, endpoint: str, replay_endpoint: str | None, topic: str
) -> AsyncIterator[None]:
    """Each feed at an address of its own: the given ones for the first, one port further for each next one.
    Raises CannotPublish."""
    if not _LOOPBACK.match(endpoint):
        _log.warning("The cache's events are published at %s: every host that reaches it may read them.", endpoint)
    publishers: list[CacheEventsPublisher] = []
    try:
        for number, feed in enumerate(feeds):
            publisher = CacheEventsPublisher(feed, owners, topic)
            publisher.open(address_of(endpoint, number), replay_endpoint and address_of(replay_endpoint, number))
            publishers.append(publisher)
            publisher.start()
        yield
    finally:
        for publisher in publishers:
            await publisher.close()


def address_of(endpoint: str, number: int) -> str:
    """Of the engine of this number, from 0."""
    place, colon, port = endpoint.rpartition(":")
    if endpoint.startswith("tcp://"):
        return f"{place}{colon}{int(port) + number}"
    return f"{endpoint}-{number}" if number else endpoint
