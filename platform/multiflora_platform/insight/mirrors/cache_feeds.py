"""The feeds of all engines, each made when it is asked for first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from multiflora_platform.engine import ReplicaHandle
from multiflora_platform.insight.mirrors.cache_feed import CacheFeed


class CacheFeeds:
    """clock: Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._feeds: dict[ReplicaHandle, CacheFeed] = {}

    def of(self, replica: ReplicaHandle) -> CacheFeed:
        feed = self._feeds.get(replica)
        if feed is None:
            feed = self._feeds[replica] = CacheFeed(replica, self._clock)
        return feed

    def forget(self, replicas: Iterable[ReplicaHandle]) -> None:
        """They are gone for good: listeners end."""
        for replica in replicas:
            if (feed := self._feeds.pop(replica, None)) is not None:
                feed.stop()

    def stop(self) -> None:
        """Ends all listeners: the server is going."""
        for feed in self._feeds.values():
            feed.stop()
