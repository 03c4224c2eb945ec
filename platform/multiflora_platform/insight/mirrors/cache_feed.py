"""What the engine caches and gives up, numbered across its lives and kept for a while, for mirrors in other programs.

The engine tells while a mirror listens, and for a minute after. Knows hashes and no text.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.cache_change import CacheChange

if TYPE_CHECKING:
    from multiflora_platform.engine import ReplicaHandle

_MOST_BLOCKS = 1 << 16
_PATIENCE = 60.0
_KEEPALIVE_SECONDS = 15.0
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class NumberedChange:
    """seq: of a part of a snapshot, the event's that it stands behind. change: None where all of it is gone."""

    seq: int
    change: CacheChange | None


@dataclass(frozen=True, slots=True)
class Events:
    """Some in a row; none as a sign of life. position: what a listener that has them has heard; None inside a snapshot,
    of which it needs all. begins: with `cleared` and all that is cached."""

    items: list[NumberedChange]
    position: int | None
    begins: bool = False


class CacheFeed:
    """A position is the number of the last event that was heard. most_blocks: of the events that are kept.
    block_size: in tokens, of all blocks that it told of.

    clock: Unix seconds. Numbers begin with it, in microseconds, so that no two processes of a server use the same.
    """

    def __init__(
        self, engine: ReplicaHandle, clock: Callable[[], float] = time.time, most_blocks: int = _MOST_BLOCKS
    ) -> None:
        self.position = int(clock() * 1_000_000)
        self.block_size = 0
        self._engine = engine
        self._most_blocks = most_blocks
        # By number; the oldest first.
        self._kept: dict[int, CacheChange | None] = {}
        self._blocks = 0
        self._is_following = self._is_stopped = False
        self._listeners = 0
        self._parting: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()

    # ---- as CacheFollower: what the engine tells

    def changed(self, changes: list[CacheChange]) -> None:
        self._note_size()
        for change in changes:
            self._add(change)
        self._wake()

    def cleared(self) -> None:
        self._add(None)
        self._wake()

    # ---- for listeners

    async def page(self, position: int | None, limit: int, *, snapshot: bool = False) -> Events:
        """What came after the position, at most `limit`. snapshot: all that is cached instead, whatever the limit; so
        it is where the position is too old. None: nothing, and the position of now."""
        with self._listening():
            if position is None and not snapshot:
                return Events([], self.position)
            if not snapshot and position is not None and self._has(position):
                return self._after(position, limit)
            while True:
                parts = [events async for events in self._snapshot()]
                if parts[-1].position is not None:
                    return Events([item for events in parts for item in events.items], parts[-1].position, True)

    async def follow(self, position: int | None, *, snapshot: bool = False) -> AsyncGenerator[Events]:
        """The same without an end, until `stop` and what came before it. A listener that is too slow for what is kept
        gets a snapshot again."""
        with self._listening():
            at = self.position if position is None and not snapshot else position
            needs_all = snapshot
            while True:
                if needs_all or at is None or not self._has(at):
                    if self._is_stopped:
                        return
                    async for events in self._snapshot():
                        yield events
                        at, needs_all = events.position, False
                    continue
                news = self._news
                events = self._after(at, _AT_ONCE)
                if events.items:
                    at = events.position
                    yield events
                elif self._is_stopped:
                    return
                elif not await _is_set(news):
                    yield Events([], at)

    def stop(self) -> None:
        """Ends all listeners: the server is going."""
        self._is_stopped = True
        if self._parting is not None:
            self._parting.cancel()
        self._wake()

    async def _snapshot(self) -> AsyncGenerator[Events]:
        """It begins with `cleared`; what happens meanwhile is among it. The last one has a position, unless more
        happens meanwhile than is kept: then it is of no use."""
        at = self.position
        yield Events([NumberedChange(at, None)], None)
        first: int | None = 0
        while first is not None:
            try:
                reply = await self._engine.cache("held", first=first)
            except EngineUnavailable:
                break  # it has nothing, and what it had is cleared behind `at`
            self._note_size()
            # Changes that the engine had told of when it began this page, which stands between them and later ones.
            page_at = self.position - self._engine.cache_followers.count + reply.at
            if not self._has(at):
                return
            yield Events(self._between(at, page_at) + [NumberedChange(page_at, change) for change in reply.held], None)
            at, first = page_at, reply.first
        yield Events([], at)

    def _has(self, position: int) -> bool:
        """Whether all that came after it is kept."""
        return self.position - len(self._kept) <= position <= self.position

    def _after(self, position: int, limit: int) -> Events:
        stop = min(self.position, position + limit)
        return Events(self._between(position, stop), stop)

    def _between(self, position: int, stop: int) -> list[NumberedChange]:
        return [NumberedChange(number, self._kept[number]) for number in range(position + 1, stop + 1)]

    def _add(self, change: CacheChange | None) -> None:
        self.position += 1
        self._kept[self.position] = change
        self._blocks += _size(change)
        while self._blocks > self._most_blocks:
            self._blocks -= _size(self._kept.pop(next(iter(self._kept))))

    def _note_size(self) -> None:
        # The engine is there now; when the events are read, it may be gone.
        if self._engine.ready is not None:
            self.block_size = self._engine.ready.block_size

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        self._begin()
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners and not self._is_stopped:
                self._parting = asyncio.get_running_loop().call_later(_PATIENCE, self._end)

    def _begin(self) -> None:
        if self._parting is not None:
            self._parting.cancel()
            self._parting = None
        if not self._is_following:
            # Positions from before are of no use, because what came since is not known.
            self.position += 1
            self._is_following = True
            self._engine.cache_followers.add(self)

    def _end(self) -> None:
        self._is_following = False
        self._engine.cache_followers.remove(self)
        self._kept.clear()
        self._blocks = 0

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _size(change: CacheChange | None) -> int:
    return 1 if change is None else len(change.hashes) // HASH_BYTES


async def _is_set(news: asyncio.Event) -> bool:
    """Waits for it; False when it is time for a sign of life."""
    try:
        async with asyncio.timeout(_KEEPALIVE_SECONDS):
            await news.wait()
    except TimeoutError:
        return False
    return True
