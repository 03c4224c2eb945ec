"""Keeps contexts on one base model: what its engines miss is computed, what pins say is held until it ends.

Looks at the engines' real blocks, never at what it did before, and at so many a second that many contexts cost no more
than few. One prefix at a time, as background requests: they wait behind clients' and take their room from none of them.
Engines that sleep are not woken.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.budget import HoldRoom, hold_room
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.contexts.holds import Holder, PrefixHolds
from multiflora_platform.gateway.background.breakpoint_holds import BreakpointHolds
from multiflora_platform.gateway.background.cache_owners import CacheOwners
from multiflora_platform.gateway.background.context_prefixes import (
    ContextPrefix,
    ContextPrefixes,
    KeeperParts,
    KeptContext,
    Surroundings,
)
from multiflora_platform.gateway.background.context_prompts import context_targets
from multiflora_platform.gateway.background.hold_metering import CONTEXT, HoldMeter
from multiflora_platform.gateway.background.warming import warm_prompt
from multiflora_platform.groups import Group
from multiflora_platform.web.openai_errors import ApiError

_log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
# What is whole is looked at again so often, and what failed is tried again so often.
_CHECK_SECONDS, _RETRY_SECONDS = 5.0, 15.0
# Of what is whole; with more contexts, each waits longer. An engine that is new is seen at once whatever there is.
_CHECKS_A_SECOND = 20


class GroupKeeper:
    """prefixes: what it finds as it looks. holds: what its engines hold, of contexts and of breakpoints, which requests
    mark."""

    def __init__(self, parts: KeeperParts, group: Group, owners: CacheOwners) -> None:
        self._parts = parts
        self._group = group
        self._owners = owners
        self._contexts = parts.contexts
        self.holds = PrefixHolds(group.engine)
        self.prefixes = ContextPrefixes(parts, group)
        self.breakpoints = BreakpointHolds(parts, group, self.holds, self.room)
        self.meter = HoldMeter(parts, group, self.holds)
        self._computing: asyncio.Task[None] | None = None
        # In which contexts were looked after last.
        self._surroundings: Surroundings | None = None

    def start(self) -> None:
        self._computing = asyncio.create_task(each_turn(self._contexts.book.changed, self.compute_missing))

    async def close(self) -> None:
        if self._computing is not None:
            self._computing.cancel()
            await asyncio.gather(self._computing, return_exceptions=True)
        await self.breakpoints.close()

    async def let_go(self) -> None:
        """Of what is held no longer: it may be evicted. Counts what was held until now."""
        self.meter.count()
        await self.breakpoints.tend()
        self.prefixes.forget_all_but(self._contexts.book.all())
        await self._release()

    async def compute_missing(self) -> None:
        """What is wrong with one keeps no other from being computed."""
        if self._group.engine.ready is None or not self._parts.settings.enable_prefix_caching:
            return
        surroundings, owners = self.prefixes.surroundings(), dict[str | None, Principal]()
        are_new = self._surroundings is None or not surroundings.are_as(self._surroundings)
        self._surroundings = surroundings
        held = defaultdict[int, list[Holder]](list)
        for holder in self.holds.holders(CONTEXT):
            held[holder[1]].append(holder)
        for entry in sorted(self._contexts.book.all(), key=lambda one: (one.definition.priority, one.id)):
            if not entry.is_over(datetime.now(UTC)):
                try:
                    if entry.tenant not in owners:
                        owners[entry.tenant] = await self._owners.principal(entry.tenant)
                    kept, owner = self.prefixes.of(entry), owners[entry.tenant]
                    if are_new or kept.is_due(owner):
                        kept.tended_for = None
                        await self._tend_one(kept, owner, held[entry.id])
                        kept.tended_for = entry.updated_at, owner
                except Exception:
                    _log.exception("the context %s could not be looked after", "/".join(entry.key))

    async def room(self, tenant: str | None) -> HoldRoom | None:
        """What the tenant may hold; None while the engines' size is not known. Raises TenantNotFound."""
        ready = self._group.engine.ready
        if ready is None:
            return None
        share = (await self._owners.principal(tenant)).policy.kv_share
        return hold_room(ready.num_blocks, ready.block_size, self._parts.settings.context_budget, share)

    def is_held(self, kept: KeptContext) -> bool:
        """All of its blocks, for each of its models that are of this base model."""
        return bool(kept.prefixes) and all(
            not prefix.hashes or self.holds.holds(_holder(kept.entry, digest))
            for digest, prefix in kept.prefixes.items()
        )

    async def _release(self) -> None:
        """The holds of contexts that are held no more, or are not there any more. Contexts come and change while a
        hold is released: the next one is looked at with what is there then."""
        pinned = self._pinned()
        for holder in self.holds.holders(CONTEXT):
            if holder[1] not in pinned:
                await self.holds.release(holder)
                pinned = self._pinned()

    def _pinned(self) -> set[int]:
        now = datetime.now(UTC)
        return {entry.id for entry in self._contexts.book.all() if entry.is_pinned(now)}

    async def _tend_one(self, kept: KeptContext, principal: Principal, held: Sequence[Holder]) -> None:
        """Superseded versions are let go first: what they held is room for the new ones. held: what is for it."""
        wanted = self._wanted(kept.entry, principal)
        for digest in [digest for digest in kept.prefixes if digest not in wanted]:
            del kept.prefixes[digest]
        for holder in held:
            if holder[2] not in wanted:
                await self.holds.release(holder)
        if not wanted or (ids := await self.prefixes.ids(kept)) is None:
            return
        for digest in wanted:
            prefix = await self.prefixes.prefix(kept, digest, ids, principal)
            if time.monotonic() >= prefix.look_at:
                with suppress(EngineUnavailable):
                    await self._tend_prefix(kept.entry, digest, prefix, ids, principal)

    def _wanted(self, entry: ContextEntry, principal: Principal) -> list[str | None]:
        """The digests that it is to be computed for here, each once; None: the base model's."""
        parts, wanted = self._parts, dict[str | None, None]()
        for model in entry.definition.adapters or (None,):
            with suppress(ApiError):
                targets = context_targets(parts.registry, parts.groups, principal, model, parts.settings.enable_lora)
                wanted |= {target.digest: None for target in targets if target.group is self._group}
        return list(wanted)

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
        check = max(_CHECK_SECONDS, len(self._contexts.book.all()) / _CHECKS_A_SECOND)
        prefix.look_at = time.monotonic() + (check if prefix.is_whole else _RETRY_SECONDS)

    async def _compute(
        self, entry: ContextEntry, digest: str | None, prefix: ContextPrefix, ids: list[int], principal: Principal
    ) -> None:
        parts = self._parts
        prefix.is_computing, prefix.error = True, None
        try:
            with parts.registry.lease(digest) if digest else nullcontext():
                engines, priority = self._group.engine.each(), entry.definition.priority
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
            await self.holds.hold(_holder(entry, digest), entry.key[0], last, blocks, room, adapter)

    def _is_idle(self) -> bool:
        stats = self._group.engine.stats
        return not stats.running and not stats.waiting


async def each_turn(changed: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Does the work each second, and whenever contexts have changed, for ever."""
    while True:
        changed.clear()
        try:
            await work()
        except Exception as error:
            _log.warning("contexts could not be looked after, and will be with the next turn: %r", error)
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), _POLL_SECONDS)


def _holder(entry: ContextEntry, digest: str | None) -> Holder:
    return CONTEXT, entry.id, digest
