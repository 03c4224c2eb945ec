"""Keeps contexts on all base models: a keeper for each, as they come and go; what has ended and was used is written."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import partial

from multiflora_platform.contexts.budget import BaseRoom
from multiflora_platform.contexts.content import ContextDefinition
from multiflora_platform.gateway.background.cache_owners import CacheOwners
from multiflora_platform.gateway.background.context_prefixes import KeeperParts
from multiflora_platform.gateway.background.context_prompts import num_models_on
from multiflora_platform.gateway.background.group_keeper import GroupKeeper, each_turn
from multiflora_platform.groups import Group

_FLUSH_SECONDS = 30.0


class ContextKeeper:
    """`start` it once the default base model's engines are ready, `close` it before they end. owners: for whom contexts
    are computed."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts
        self._contexts = parts.contexts
        self.owners = CacheOwners(parts.keys)
        self._keepers: dict[Group, GroupKeeper] = {}
        self._flushed = time.monotonic()
        self._ending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Holds end in time also while a context is being computed: that has tasks of its own."""
        self._ending = asyncio.create_task(each_turn(self._contexts.book.changed, self._end))
        for keeper in self._keepers.values():
            keeper.start()

    async def close(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
            self._ending = None
        for keeper in self._keepers.values():
            await keeper.close()

    def of(self, group: Group) -> GroupKeeper:
        """That base model's; of one that is unloaded it is forgotten with the next turn."""
        keeper = self._keepers.get(group)
        if keeper is None:
            keeper = self._keepers[group] = GroupKeeper(self._parts, group, self.owners)
            if self._ending is not None:
                keeper.start()
        return keeper

    async def tend(self) -> None:
        """Looks at every context once; computes, holds and lets go of what has to be."""
        await self._end()
        for keeper in list(self._keepers.values()):
            await keeper.compute_missing()

    async def rooms(self, tenant: str | None) -> list[BaseRoom]:
        """What the tenant may hold on each base model whose engines run. Raises TenantNotFound."""
        found = [(group, await self.of(group).room(tenant)) for group in self._parts.groups]
        return [
            BaseRoom(group.name, group.base_digest, room, partial(self._num_models, group))
            for group, room in found
            if room is not None
        ]

    def _num_models(self, group: Group, definition: ContextDefinition) -> int:
        return num_models_on(self._parts.registry, self._parts.groups, definition, group)

    async def _end(self) -> None:
        await self._follow_groups()
        book = self._contexts.book
        for entry in book.all():
            if entry.is_over(datetime.now(UTC)) and not entry.expired:
                await self._contexts.changes.expire(entry)
        for keeper in list(self._keepers.values()):
            await keeper.let_go()
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            await book.flush()

    async def _follow_groups(self) -> None:
        """What engines of an unloaded base model held is gone with them."""
        groups = set(self._parts.groups)
        for group in [group for group in self._keepers if group not in groups]:
            await self._keepers.pop(group).close()
        for group in groups:
            self.of(group)
