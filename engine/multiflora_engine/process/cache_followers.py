"""The gateway's side of following what the engine caches: who follows, and whether the engine has to tell.

asyncio, torch-free. Knows messages; not what followers make of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import CacheChanges, FollowCache


class CacheFollower(Protocol):
    """A mirror of what the engine caches, or what feeds one. Called between two turns of the event loop."""

    def changed(self, changes: list[CacheChange]) -> None:
        """What was cached and given up since the last call, in order."""

    def cleared(self) -> None:
        """The engine is gone and its cache with it; the next one begins with none."""


class CacheFollowers:
    """send: to the engine. The engine tells while there is a follower.

    count: changes that the engine has told of since it began to; CacheReply.at is one of these numbers.
    """

    def __init__(self, send: Callable[[FollowCache], None]) -> None:
        self.count = 0
        self._send = send
        self._followers: list[CacheFollower] = []
        self._is_served = False
        self._last = self._current = 0

    def add(self, follower: CacheFollower) -> None:
        """Of an engine that serves already, `held` tells what is cached. One that starts later is followed from its
        first block on."""
        self._followers.append(follower)
        if self._is_served and not self._current:
            self._follow()

    def remove(self, follower: CacheFollower) -> None:
        self._followers.remove(follower)
        if not self._followers and self._current:
            self._current = 0
            self._send(FollowCache(0))

    def begin(self) -> None:
        """An engine serves now. Before its first request, so that nothing is missed."""
        self._is_served = True
        if self._followers:
            self._follow()

    def end(self) -> None:
        """It is gone."""
        was_served, self._is_served, self._current = self._is_served, False, 0
        if was_served:
            for follower in list(self._followers):
                follower.cleared()

    def take(self, message: CacheChanges) -> None:
        # What was on its way when the last follower left is of a following that has ended: it counts for none.
        if message.following == self._current:
            self.count += len(message.changes)
            for follower in list(self._followers):
                follower.changed(message.changes)

    def _follow(self) -> None:
        self.count = 0
        self._last = self._current = self._last + 1
        self._send(FollowCache(self._current))
