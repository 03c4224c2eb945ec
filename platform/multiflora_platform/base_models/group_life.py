"""The engines of one group as requests come and stay away: started, idle, ended. Knows no registry and no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.messages import Fatal
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.processes import wait_any_ready
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.groups import Group

_UNLOADED = Fatal("internal", "It is being unloaded.")


class GroupLife:
    """A group's Waker. While requests come all engines of the fleet run; after idle_seconds without one, `least` of
    them. None: always all."""

    def __init__(
        self,
        group: Group,
        fleet: Fleet,
        least: int,
        idle_seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group = group
        self._fleet = fleet
        self._least = least
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._running: list[EngineReplica] = []
        self._changing = asyncio.Lock()
        self._waking: asyncio.Task[None] | None = None
        self._ended = False
        self.asleep = True
        for replica in fleet.replicas:
            replica.retired = True  # until it is started

    async def wake(self) -> None:
        """Returns when an engine serves; all who wait share one start. Raises EngineFailed when none ever will."""
        if self._ended:
            raise EngineFailed(_UNLOADED)
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._wake())
        waking = self._waking
        try:
            # Not cancelled with the request: the others that wait, and the next request, want it, too.
            await asyncio.shield(waking)
        except asyncio.CancelledError:
            if waking.cancelled():
                raise EngineFailed(_UNLOADED) from None
            raise

    async def tend(self) -> None:
        """Ends the engines that no request needs, starts those that requests need: called each second."""
        if self._ended or not self._running or self._idle_seconds is None:
            return
        if self._is_idle():
            await self._end_all_but(self._least)
        elif len(self._running) < len(self._fleet.replicas):
            async with self._changing:
                await self._start_missing()

    async def end(self) -> None:
        """For good. Requests that still run end with "engine_dead"."""
        self._ended = True
        self.asleep = True
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)
        async with self._changing:
            await asyncio.gather(*(replica.supervisor.stop() for replica in self._fleet.replicas))
            self._running.clear()

    def _is_idle(self) -> bool:
        quiet = self._clock() - self._group.last_used
        return not self._group.in_flight and self._idle_seconds is not None and quiet >= self._idle_seconds

    async def _wake(self) -> None:
        async with self._changing:
            await self._start_missing()
        await wait_any_ready(self._fleet)
        self.asleep = False

    async def _start_missing(self) -> None:
        for replica in self._fleet.replicas:
            if replica in self._running and replica.state == "failed":
                await replica.supervisor.stop()
                self._running.remove(replica)
            if replica not in self._running:
                self._running.append(replica)
                await replica.start()

    async def _end_all_but(self, least: int) -> None:
        ending = self._running[least:]
        if not ending:
            return
        # Before the first wait: a request that comes meanwhile wakes the group, or goes to those that stay.
        self.asleep = least == 0
        for replica in ending:
            replica.retired = True
        async with self._changing:
            await asyncio.gather(*(replica.supervisor.stop() for replica in ending))
            del self._running[least:]
