"""When an artifact may go: no version names its digest, and no request runs on it, in this process or another.

Knows digests only. The store itself is multiflora_adapters.store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.rows.adapters import is_needed, live_digests
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.web.problems import Unavailable

_log = logging.getLogger(__name__)


class Artifacts:
    """forget(digest): tells the engine that the adapter is gone, before its files are."""

    def __init__(self, store: ArtifactStore, database: Database, forget: Callable[[str], Awaitable[None]]) -> None:
        self.store = store
        self._leases = store.leases
        self._database = database
        self._forget = forget
        self._doomed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def lease(self, digest: str) -> Iterator[None]:
        """A request runs on the digest: its artifact stays until the last lease ends."""
        self._leases.acquire(digest)
        self.store.cache.touch(digest)
        try:
            yield
        finally:
            self._leases.release(digest)
            if digest in self._doomed and not self._leases.is_held_here(digest):
                self.collect_soon(digest)

    def collect_soon(self, digest: str) -> None:
        task = asyncio.get_running_loop().create_task(self._collect_quietly(digest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def collect(self, digest: str) -> None:
        """Remove the artifact unless a version or a request needs it. Raises Unavailable while the database is away.

        The look and the rename are one write transaction: a version that names the digest comes before, and is seen,
        or after, and then finds no artifact and stores it anew.
        """
        self._doomed.discard(digest)
        async with self._database.read() as session:
            if await is_needed(session, digest):
                return
        if self._leases.is_held_here(digest):
            self._doomed.add(digest)
            return
        await self._forget(digest)

        async def work(change: Change) -> tuple[bool, Path | None]:
            if await is_needed(change.session, digest):
                return False, None
            with self._leases.alone(digest) as is_alone:
                if not is_alone:
                    self._doomed.add(digest)
                    return False, None
                return True, self.store.set_aside(digest)

        may_go, aside = await self._database.write("system", work)
        if aside is not None:
            await asyncio.to_thread(self.store.discard, aside)
        if may_go and self.store.origin is not None:
            await asyncio.to_thread(self.store.origin.retire, digest)

    async def sweep(self) -> None:
        """Artifacts that were stored but never recorded, or whose removal was interrupted or had to wait."""
        async with self._database.read() as session:
            needed = await live_digests(session)
        for digest in set(await asyncio.to_thread(self.store.digests)) - needed:
            await self._collect_quietly(digest)
        if self.store.origin is not None:
            try:
                await asyncio.to_thread(self.store.origin.sweep, needed)
            except OSError as error:
                _log.warning("what was retired of the artifact store stays for now: %s", error)

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._leases.close()

    async def _collect_quietly(self, digest: str) -> None:
        """What cannot be removed now is found again by the next sweep."""
        try:
            await self.collect(digest)
        except (OSError, Unavailable) as error:
            _log.warning("could not remove artifact %s: %s", digest, error)
