"""Keeps contexts computed and held: what is missing in the engine is computed, what pins say is held until it ends.

Looks at the engine's real blocks, never at what it did before. One prefix at a time, as background requests: they wait
behind clients' and take their room from none of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.budget import HoldRoom, hold_room
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.contexts.holds import Holder
from multiflora_platform.gateway.background.breakpoint_holds import BreakpointHolds
from multiflora_platform.gateway.background.context_prefixes import (
    ContextPrefix,
    ContextPrefixes,
    KeeperParts,
    KeptContext,
)
from multiflora_platform.gateway.background.hold_metering import CONTEXT, HoldMeter
from multiflora_platform.gateway.background.warming import warm_prompt
from multiflora_platform.web.openai_errors import ApiError

_log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
# What is whole is looked at again so often, and what failed is tried again so often.
_CHECK_SECONDS, _RETRY_SECONDS = 5.0, 15.0
_FLUSH_SECONDS = 30.0


class ContextKeeper:
    """`start` it once the engine is ready, `close` it before the engine ends. prefixes: what it finds as it looks.
    breakpoints: what requests mark."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts
        self._contexts = parts.contexts
        self.prefixes = ContextPrefixes(parts)
        self.breakpoints = BreakpointHolds(parts, self.room)
        self.meter = HoldMeter(parts)
        self._flushed = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Holds end in time also while a context is being computed, so each has a task."""
        self._tasks = [asyncio.create_task(self._run(work)) for work in (self._end, self._compute_missing)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.breakpoints.close()

    async def tend(self) -> None:
        """Looks at every context once; computes, holds and lets go of what has to be."""
        await self._end()
        await self._compute_missing()

    async def _end(self) -> None:
        self.meter.count()
        await self.breakpoints.tend()
        for entry in self._contexts.book.all():
            if _is_over(entry) and not entry.expired:
                await self._contexts.changes.expire(entry)
        self.prefixes.forget_all_but(self._contexts.book.all())
        await self._release()
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            await self._contexts.book.flush()

    async def _compute_missing(self) -> None:
        """What is wrong with one keeps no other from being computed."""
        if self._parts.engine.ready is None or not self._parts.settings.enable_prefix_caching:
            return
        for entry in sorted(self._contexts.book.all(), key=lambda one: (one.definition.priority, one.id)):
            if not _is_over(entry):
                try:
                    await self._tend_one(self.prefixes.of(entry))
                except Exception:
                    _log.exception("the context %s could not be looked after", "/".join(entry.key))

    async def room(self, tenant: str | None) -> HoldRoom | None:
        """What the tenant may hold; None while the engine's size is not known. Raises TenantNotFound."""
        ready = self._parts.engine.ready
        if ready is None:
            return None
        share = (await self.prefixes.principal(tenant)).policy.kv_share
        return hold_room(ready.num_blocks, ready.block_size, self._parts.settings.context_budget, share)

    def is_held(self, kept: KeptContext) -> bool:
        """All of its blocks, for each of its models."""
        holds = self._contexts.holds
        return bool(kept.prefixes) and all(
            not prefix.hashes or holds.holds(_holder(kept.entry, digest)) for digest, prefix in kept.prefixes.items()
        )

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        changed = self._contexts.book.changed
        while True:
            changed.clear()
            try:
                await work()
            except Exception as error:
                _log.warning("contexts could not be looked after, and will be with the next turn: %r", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _POLL_SECONDS)

    async def _release(self) -> None:
        """The holds of contexts that are held no more, or are not there any more. Contexts come and change while a
        hold is released: the next one is looked at with what is there then."""
        pinned = self._pinned()
        for holder in self._contexts.holds.holders(CONTEXT):
            if holder[1] not in pinned:
                await self._contexts.holds.release(holder)
                pinned = self._pinned()

    def _pinned(self) -> set[int]:
        now = datetime.now(UTC)
        return {entry.id for entry in self._contexts.book.all() if entry.is_pinned(now)}

    async def _tend_one(self, kept: KeptContext) -> None:
        """Superseded versions are let go first: what they held is room for the new ones."""
        ids = await self.prefixes.ids(kept)
        if ids is None:
            return
        principal = await self.prefixes.principal(kept.entry.tenant)
        wanted: dict[str | None, None] = {}
        for model in kept.entry.definition.adapters or (None,):
            with suppress(ApiError):
                wanted |= dict.fromkeys(self.prefixes.digests(principal, model))
        for digest in [digest for digest in kept.prefixes if digest not in wanted]:
            del kept.prefixes[digest]
        for holder in self._contexts.holds.holders(CONTEXT):
            if holder[1] == kept.entry.id and holder[2] not in wanted:
                await self._contexts.holds.release(holder)
        for digest in wanted:
            prefix = await self.prefixes.prefix(kept, digest, ids, principal)
            if time.monotonic() >= prefix.look_at:
                with suppress(EngineUnavailable):
                    await self._tend_prefix(kept.entry, digest, prefix, ids, principal)

    async def _tend_prefix(
        self, entry: ContextEntry, digest: str | None, prefix: ContextPrefix, ids: list[int], principal: Principal
    ) -> None:
        """Raises EngineUnavailable."""
        found = await self.prefixes.found(prefix)
        if found < len(prefix.hashes):
            if prefix.is_whole:
                prefix.is_whole = False
                lost = (len(prefix.hashes) - found) * self.prefixes.block_size
                await self._contexts.changes.tell_evicted(entry, lost)
            if prefix.was_whole and not self._is_idle():
                prefix.look_at = time.monotonic() + _POLL_SECONDS
                return
            await self._compute(entry, digest, prefix, ids, principal)
            found = await self.prefixes.found(prefix)
        prefix.is_whole = found == len(prefix.hashes)
        prefix.was_whole |= prefix.is_whole
        if prefix.is_whole:
            prefix.error = None
            await self._hold(entry, digest, prefix)
        elif prefix.error is None:
            prefix.error = "The cache has no room for all of it now."
        prefix.look_at = time.monotonic() + (_CHECK_SECONDS if prefix.is_whole else _RETRY_SECONDS)

    async def _compute(
        self, entry: ContextEntry, digest: str | None, prefix: ContextPrefix, ids: list[int], principal: Principal
    ) -> None:
        parts = self._parts
        prefix.is_computing, prefix.error = True, None
        try:
            with parts.registry.lease(digest) if digest else nullcontext():
                engines, priority = parts.engine.each(), entry.definition.priority
                warmed = await warm_prompt(engines, parts.keys, digest, ids, principal, priority)
            self.meter.computed(entry, self.prefixes.adapter(digest), prefix, warmed)
        except RuntimeError as error:
            prefix.error = str(error)
        finally:
            prefix.is_computing = False

    async def _hold(self, entry: ContextEntry, digest: str | None, prefix: ContextPrefix) -> None:
        """Unless the context was changed while it was computed. Raises EngineUnavailable."""
        present = self._contexts.book.find(entry.key)
        if present is None or present.etag != entry.etag or not present.is_pinned(datetime.now(UTC)):
            return
        room = await self.room(entry.tenant)
        if room is not None and prefix.hashes:
            last, blocks = prefix.hashes[-1].hex(), len(prefix.hashes)
            adapter = self.prefixes.adapter(digest)
            await self._contexts.holds.hold(_holder(entry, digest), entry.key[0], last, blocks, room, adapter)

    def _is_idle(self) -> bool:
        stats = self._parts.engine.stats
        return not stats.running and not stats.waiting


def _holder(entry: ContextEntry, digest: str | None) -> Holder:
    return CONTEXT, entry.id, digest


def _is_over(entry: ContextEntry) -> bool:
    return entry.is_over(datetime.now(UTC))
