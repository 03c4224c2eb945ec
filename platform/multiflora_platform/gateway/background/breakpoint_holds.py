"""Holds the beginnings that requests mark, each for its time, as far as the tenant's budget has room.

Marks are hints of clients: nothing here is ever an error to them, and contexts go before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from multiflora_engine.cache.block_hashes import prompt_hashes
from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.budget import HoldRoom
from multiflora_platform.contexts.holds import Holder, PrefixHolds
from multiflora_platform.gateway.background.context_prefixes import KeeperParts
from multiflora_platform.gateway.generation.model_resolution import ResolvedModel
from multiflora_platform.gateway.generation.start import cache_scope
from multiflora_platform.gateway.prompting.breakpoints import Breakpoint
from multiflora_platform.groups import Group
from multiflora_platform.observability.observers import Observer, PromptStart
from multiflora_platform.text.off_loop import off_loop

_log = logging.getLogger(__name__)
_KIND = "breakpoint"
# Marks that wait to be looked at; beyond, clients flood the server with them.
_MOST_WAITING = 256


class BreakpointHolds:
    """Of one base model: `observer` of each request that marks something; `tend` now and then."""

    def __init__(
        self,
        parts: KeeperParts,
        group: Group,
        holds: PrefixHolds,
        room: Callable[[str | None], Awaitable[HoldRoom | None]],
    ) -> None:
        self._parts = parts
        self._group = group
        self._holds = holds
        self._room = room
        # time.monotonic() at which each ends.
        self._until: dict[Holder, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def observer(
        self,
        principal: Principal,
        ids: list[int],
        resolved: ResolvedModel,
        cache_salt: str | None,
        marks: Sequence[Breakpoint],
    ) -> list[Observer]:
        """For `start`; none where nothing is marked. resolved: of this base model."""
        if not marks or not self._parts.settings.enable_prefix_caching:
            return []
        salt = cache_scope(self._parts.keys, principal, cache_salt).salt
        return [_WhenComputed(self, partial(self._hold_all, principal.tenant, salt, ids, resolved, marks))]

    async def tend(self) -> None:
        """Lets go of what is over, and of what no engine has any more."""
        now, lost = time.monotonic(), self._holds.lost()
        for holder in [one for one, until in self._until.items() if until <= now or one in lost]:
            await self._release(holder)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        if len(self._tasks) < _MOST_WAITING:
            task = asyncio.ensure_future(self._quietly(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except EngineUnavailable:
            _log.debug("the engine ended before a marked prefix was held")
        except Exception:
            _log.exception("a marked prefix could not be held")

    async def _hold_all(
        self, tenant: str | None, salt: str, ids: list[int], resolved: ResolvedModel, marks: Sequence[Breakpoint]
    ) -> None:
        room, ready = await self._room(tenant), self._group.engine.ready
        if room is None or ready is None:
            return
        base, size = self._group.base_digest, ready.block_size
        hashes = await off_loop(len(ids), partial(prompt_hashes, base, resolved.kv_reach, salt, ids, size))
        for mark in marks:
            tokens = await mark.held_tokens(ids, self._group.model, self._group.max_model_len)
            if blocks := tokens // ready.block_size:
                await self._hold(tenant or "", resolved.adapter, hashes[:blocks], time.monotonic() + mark.ttl, room)

    async def _hold(self, tenant: str, adapter: str | None, hashes: list[bytes], until: float, room: HoldRoom) -> None:
        """The holds of its own beginnings that end no later are in it: they are let go once it is held."""
        holder = _holder(hashes[-1])
        until = max(until, self._until.get(holder, 0.0))
        own = [other for hash in hashes[:-1] if (other := _holder(hash)) in self._until]
        covered = [other for other in own if self._until[other] <= until]
        last, blocks = hashes[-1].hex(), len(hashes)
        if await self._holds.hold_hint(holder, tenant, last, blocks, room, covered, adapter):
            self._until[holder] = until
            for other in covered:
                if self._until.get(other, 0.0) <= until:  # meanwhile another request may have marked it for longer
                    await self._release(other)
        else:
            await self._release(holder)

    async def _release(self, holder: Holder) -> None:
        self._until.pop(holder, None)
        await self._holds.release(holder)


class _WhenComputed(Observer):
    """The prompt's blocks are there with its first token."""

    def __init__(self, holds: BreakpointHolds, work: Callable[[], Awaitable[None]]) -> None:
        self._holds = holds
        self._work = work

    def started(self, start: PromptStart) -> None:
        self._holds.begin(self._work)


def _holder(hash: bytes) -> Holder:
    """A hash covers the tenant's salt."""
    return _KIND, 0, hash.hex()
