"""When an artifact may go: no live version names its digest, nobody is making one, and no request runs on it.

Knows digests only. The store itself is multiflora_adapters.store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.catalog import live_digests
from multiflora_platform.registry.database import Database
from multiflora_platform.registry.locks import KeyedLocks

_log = logging.getLogger(__name__)


class Artifacts:
    """forget(digest): tells the engine that the adapter is gone, before its files are."""

    def __init__(self, store: ArtifactStore, database: Database, forget: Callable[[str], Awaitable[None]]) -> None:
        self.store = store
        self._database = database
        self._forget = forget
        self._locks = KeyedLocks()
        self._leases: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def exclusive(self, digest: str) -> AsyncIterator[None]:
        """Nobody else adds, records or removes this digest meanwhile."""
        async with self._locks.hold(digest):
            yield

    @contextmanager
    def lease(self, digest: str) -> Iterator[None]:
        """A request runs on the digest: its artifact stays until the last lease ends."""
        self._leases[digest] += 1
        try:
            yield
        finally:
            self._leases[digest] -= 1
            if not self._leases[digest]:
                del self._leases[digest]
                if digest in self._doomed:
                    self.collect_soon(digest)

    def collect_soon(self, digest: str) -> None:
        task = asyncio.get_running_loop().create_task(self.collect(digest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def collect(self, digest: str) -> None:
        """Remove the artifact unless somebody needs it."""
        async with self.exclusive(digest):
            self._doomed.discard(digest)
            async with self._database.read() as session:
                if digest in await live_digests(session):
                    return
            if self._leases[digest]:
                self._doomed.add(digest)
                return
            await self._forget(digest)
            try:
                await asyncio.to_thread(self.store.remove, digest)
            except OSError as error:
                _log.warning("could not remove artifact %s: %s", digest, error)

    async def collect_orphans(self) -> None:
        """At start: artifacts that were stored but never recorded, or whose removal was interrupted."""
        async with self._database.read() as session:
            live = await live_digests(session)
        for digest in set(self.store.digests()) - live:
            await asyncio.to_thread(self.store.remove, digest)

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
