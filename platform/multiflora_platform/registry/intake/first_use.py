"""Adapters that are registered at their first use: a model's name that is unknown, and that a resolver has.

Owns who may cause it, that one registration serves all who wait, and for how long a failure is remembered. Where
adapters lie is sources/adapter_resolvers.py's; how they are registered, local_paths.py's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.errors import AdapterExists
from multiflora_platform.registry.intake.local_paths import LocalPaths
from multiflora_platform.registry.snapshot.snapshot import Resolved
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.registry.sources.adapter_resolvers import AdapterResolver
from multiflora_platform.storage.disk_errors import full_disk_reported
from multiflora_platform.web.problems import Problem, Unavailable

_ACTOR = "resolver"
# An adapter that was refused is validated again after so long even where its files are as they were: the engine may
# have been the reason.
_REFUSED_SECONDS = 60.0
_MOST_REMEMBERED = 4096
_AT_ONCE = 8


@dataclass(frozen=True)
class _Failure:
    """Why a resolver's name is not served; written when its registration or its search ends."""

    looked: float  # monotonic; when the resolver was last asked
    since: float  # monotonic; when it was refused
    stamp: str | None = None  # of the files that were refused; None: there are none
    problem: Problem | None = None  # None: the resolver does not have it


_Place = tuple[int, str]  # a resolver's index, and the name under which it registers


class FirstUse:
    """tenants: those whose requests may cause a registration; admins' always may."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        paths: LocalPaths,
        resolvers: Sequence[AdapterResolver],
        tenants: Collection[str],
    ) -> None:
        self._snapshots = snapshots
        self._paths = paths
        self._resolvers = resolvers
        self._tenants = frozenset(tenants)
        self._running: dict[_Place, asyncio.Task[None]] = {}
        self._failures: dict[_Place, _Failure] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)

    def resolve(self, model: str, user: str | None) -> Resolved | None:
        """A model's name as a resolver writes it (organisation/NAME), once it is registered. From memory."""
        name, at, selector = model.partition("@")
        for resolver in self._resolvers:
            registered = resolver.registered(name)
            if registered not in (None, name):
                found = self._snapshots.snapshot.resolve(f"{registered}{at}{selector}", user)
                if found is not None:
                    return found
        return None

    async def bring(self, model: str, principal: Principal, seconds: float) -> None:
        """Register `model` if it is unknown, a resolver has it, and the principal may; wait so long for it.

        Raises TimeoutError, and what was wrong with it (VersionRejected, SourceUnreachable, ...).
        """
        if not (principal.is_admin or principal.tenant in self._tenants):
            return
        deadline = time.monotonic() + seconds
        name = model.partition("@")[0]
        for index, resolver in enumerate(self._resolvers):
            registered = resolver.registered(name)
            if registered is None or not principal.may_use(registered):
                continue
            if await self._is_brought((index, registered), deadline):
                return

    async def close(self) -> None:
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _is_brought(self, place: _Place, deadline: float) -> bool:
        """Whether the registry has the name now. Raises as bring."""
        task = self._running.get(place)
        if task is None:
            if self._is_known(place[1]):
                return True
            failure = self._failures.get(place)
            if failure is None or time.monotonic() - failure.looked >= self._resolvers[place[0]].recheck_seconds:
                task = self._running[place] = asyncio.create_task(self._register(place))
                task.add_done_callback(lambda _: self._running.pop(place))
        if task is not None:
            # Not cancelled with the request: the others that wait, and the next request, want it, too.
            done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                raise TimeoutError
            if task.cancelled():
                raise Unavailable("The server is stopping.")
            task.result()
        failure = self._failures.get(place)
        if failure is not None and failure.problem is not None:
            # The same object for every request: without this, each would leave its frames in it.
            raise failure.problem.with_traceback(None)
        if failure is None and not self._is_known(place[1]):
            raise TimeoutError  # another process is at it
        return failure is None

    def _is_known(self, name: str) -> bool:
        """An adapter without any version is what a crash left between two steps of its registration."""
        entry = self._snapshots.snapshot.adapters.get(name)
        return entry is not None and bool(entry.digests or entry.unserved)

    async def _register(self, place: _Place) -> None:
        index, name = place
        before, stamp = self._failures.get(place), None
        try:
            async with self._room:
                found = await asyncio.to_thread(self._resolvers[index].look, name)
                now = time.monotonic()
                if found is None:
                    self._remember(place, _Failure(now, now))
                    return
                stamp = found.stamp
                if before is not None and before.stamp == stamp and now - before.since < _REFUSED_SECONDS:
                    self._remember(place, replace(before, looked=now))
                    return
                with full_disk_reported():
                    await self._paths.register(name, found.source, _ACTOR, load_inplace=True)
        except AdapterExists:
            self._failures.pop(place, None)  # another process was faster, or it is the base model's name
        except Problem as problem:
            now = time.monotonic()
            self._remember(place, _Failure(now, now, stamp, problem))
        else:
            self._failures.pop(place, None)

    def _remember(self, place: _Place, failure: _Failure) -> None:
        self._failures.pop(place, None)
        self._failures[place] = failure
        if len(self._failures) > _MOST_REMEMBERED:
            del self._failures[next(iter(self._failures))]
