"""The engines of one group as requests come, become more or fewer, and stay away: started, drained, idle, ended.

Knows no registry and no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.messages import Fatal
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.processes import wait_any_ready
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.scaling import Scaler, Targets
from multiflora_platform.groups import Group

_log = logging.getLogger(__name__)

_TARGETS = Targets()
_UNLOADED = Fatal("internal", "It is being unloaded.")


class GroupLife:
    """A group's Waker. While requests come, as many engines of the fleet run as their load wants, one at least; `least`
    of them always, and no others after idle_seconds without a request (None: the last one stays)."""

    def __init__(
        self,
        group: Group,
        fleet: Fleet,
        least: int,
        idle_seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
        targets: Targets = _TARGETS,
    ) -> None:
        self._group = group
        self._fleet = fleet
        self._least = least
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._scaler = Scaler(max(1, least), len(fleet.replicas), targets)
        if least < len(fleet.replicas) > 1:
            fleet.note_hot(targets.down_after)
        # Those that take requests, or will; then those that answer what they have, to end then.
        self._running: list[EngineReplica] = []
        self._leaving: list[EngineReplica] = []
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
        if self._ended or not (self._running or self._leaving):
            return
        if self._is_idle():
            await self._end_all_but(self._least)
            return
        await self._end_drained()
        wanted = self._wanted()
        if wanted != len(self._running):
            await self._run(wanted)

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
            self._leaving.clear()

    def _is_idle(self) -> bool:
        quiet = self._clock() - self._group.last_used
        return not self._group.in_flight and self._idle_seconds is not None and quiet >= self._idle_seconds

    async def _wake(self) -> None:
        await self._run(max(1, self._least, len(self._running)))
        await wait_any_ready(self._fleet)
        self.asleep = False

    def _wanted(self) -> int:
        """As many as run, until their load has wanted more or fewer for a while."""
        now = len(self._running)
        load = None if len(self._fleet.replicas) == 1 or self._leaving else self._fleet.load()
        if load is None:
            return max(1, self._least, now)
        wanted = self._scaler.decide(load, self._clock())
        if wanted != now:
            _log.info(
                "%s: %d engines of %d from now on (prompts wait %.1f s, %d%% of the KV blocks and %d%% of the seats "
                "are taken, %d blocks are hot)",
                self._group.name, wanted, now, load.queue_seconds, 100 * load.kv_use, 100 * load.seats, load.hot_blocks,
            )  # fmt: skip
        return wanted

    async def _run(self, count: int) -> None:
        """So many take requests, or are started to; those beyond take no more from now on."""
        self._retire_all_but(count)
        async with self._changing:
            for replica in [one for one in self._running if one.state == "failed"]:
                await replica.supervisor.stop()
                self._running.remove(replica)
            for replica in self._fleet.replicas:
                if len(self._running) < count and replica not in self._running and replica not in self._leaving:
                    self._running.append(replica)
                    await replica.start()

    def _retire_all_but(self, count: int) -> None:
        retired = self._running[count:]
        self._leaving += retired
        del self._running[count:]
        for replica in retired:
            self._fleet.retire(replica)

    async def _end_drained(self) -> None:
        drained = [replica for replica in self._leaving if not replica.client.in_flight]
        if drained:
            async with self._changing:
                await asyncio.gather(*(replica.supervisor.stop() for replica in drained))
                self._leaving = [replica for replica in self._leaving if replica not in drained]

    async def _end_all_but(self, least: int) -> None:
        # Before the first wait: a request that comes meanwhile wakes the group, or goes to those that stay.
        self.asleep = least == 0
        self._retire_all_but(least)
        await self._end_drained()
