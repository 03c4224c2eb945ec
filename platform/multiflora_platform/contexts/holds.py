"""Which cached prefixes the engines of one base model hold on purpose, and for what: several holders may share one.

The engine knows pins by the hash of a prefix's last block; that a pin is wanted more than once is known here. An engine
that was restarted has no pins: holders hold again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.contexts.budget import HoldRoom
from multiflora_platform.engine import EngineHandle, Life

_log = logging.getLogger(__name__)
# What a prefix is held for: its kind, and what tells it from others of the kind.
Holder = tuple[str, int, str | None]


@dataclass(frozen=True)
class _Hold:
    tenant: str
    hash: str
    blocks: int
    is_hint: bool
    """It gives way to what is held by name."""
    adapter: str | None
    """None: of the base."""
    lives: frozenset[Life] | None = None
    """Of the engines that held it when they were asked last; None until they have answered."""


class HeldPrefix(NamedTuple):
    """tenant: None for admins. adapter: None for the base."""

    holder: Holder
    tenant: str | None
    adapter: str | None
    blocks: int


class PrefixHolds:
    def __init__(self, engine: EngineHandle) -> None:
        self._engine = engine
        self._holds: dict[Holder, _Hold] = {}

    def holds(self, holder: Holder) -> bool:
        return holder in self._holds

    def holders(self, kind: str) -> list[Holder]:
        return [holder for holder in self._holds if holder[0] == kind]

    def lost(self) -> set[Holder]:
        """Those of what is no more in any engine: all that held it have ended since."""
        present = self._present()
        return {
            holder for holder, hold in self._holds.items() if hold.lives is not None and hold.lives.isdisjoint(present)
        }

    def held(self) -> list[HeldPrefix]:
        """What engines hold now; each once, in however many engines it is."""
        lost = self.lost()
        return [
            HeldPrefix(holder, hold.tenant or None, hold.adapter, hold.blocks)
            for holder, hold in self._holds.items()
            if hold.lives is not None and holder not in lost
        ]

    async def hold(
        self, holder: Holder, tenant: str, hash: str, blocks: int, room: HoldRoom, adapter: str | None = None
    ) -> bool:
        """The prefix that ends with the block of this hash (hexadecimal) stays cached until it is released. False: it
        is not cached, or there is no room for it among what the tenant holds; hints give way first.

        Holding again what is held asks the engine again: it may have been restarted, or an operator dropped it.
        Raises EngineUnavailable.
        """
        over = self._blocks_beside({holder}, tenant) + blocks - room.blocks
        for other, one in list(self._holds.items()):
            if over > 0 and one.is_hint and one.tenant == tenant:
                await self.release(other)
                over -= one.blocks
        return await self._hold(holder, _Hold(tenant, hash, blocks, False, adapter), room)

    async def hold_hint(
        self,
        holder: Holder,
        tenant: str,
        hash: str,
        blocks: int,
        room: HoldRoom,
        covered: Collection[Holder] = (),
        adapter: str | None = None,
    ) -> bool:
        """As `hold`, of what may be let go of again at any time. All hints together have a part of the cache.

        covered: hints that take no room beside this one, because the caller releases them once it is held.
        """
        gone = {holder, *covered}
        hints = sum(one.blocks for other, one in self._holds.items() if other not in gone and one.is_hint)
        if hints + blocks > room.hints:
            return False
        return await self._hold(holder, _Hold(tenant, hash, blocks, True, adapter), room, covered)

    def _present(self) -> frozenset[Life]:
        """One that is about to be stopped, or is, begins its next life when it is started again."""
        return frozenset(Life(one.id, one.epoch) for one in self._engine.replicas if not one.retired)

    def _blocks_beside(self, gone: Set[Holder], tenant: str) -> int:
        return sum(one.blocks for other, one in self._holds.items() if other not in gone and one.tenant == tenant)

    async def _hold(self, holder: Holder, hold: _Hold, room: HoldRoom, covered: Collection[Holder] = ()) -> bool:
        present = self._holds.get(holder)
        if present is not None and present.hash != hold.hash:
            await self.release(holder)
        elif present is not None and present.lives is not None:
            # Where it is held, it is so while the engines are asked again.
            hold = replace(hold, lives=present.lives & self._present() or None)
        if self._blocks_beside({holder, *covered}, hold.tenant) + hold.blocks > room.blocks:
            await self.release(holder)
            return False
        self._holds[holder] = hold
        try:
            lives = await self._pin(hold)
        except EngineUnavailable:
            self._holds.pop(holder, None)
            raise
        if not lives:
            self._holds.pop(holder, None)
            return False
        if self._holds.get(holder) is hold:  # else it was released, or held anew, meanwhile
            self._holds[holder] = replace(hold, lives=lives)
        return True

    async def _pin(self, hold: _Hold) -> frozenset[Life]:
        """In each engine that has it. Raises EngineUnavailable where none is there to answer."""
        engines = self._engine.each()
        lives = [Life(one.id, one.epoch) for one in engines]
        asked = (one.cache("hold", hold.hash) for one in engines)
        replies = await asyncio.gather(*asked, return_exceptions=True)
        ended = [reply for reply in replies if isinstance(reply, BaseException)]
        if unexpected := [error for error in ended if not isinstance(error, EngineUnavailable)]:
            raise unexpected[0]
        if len(ended) == len(replies):
            raise ended[0]
        held = [not isinstance(reply, BaseException) and reply.error is None for reply in replies]
        return frozenset(life for life, is_held in zip(lives, held, strict=True) if is_held)

    async def release(self, holder: Holder) -> None:
        """It may be evicted again, unless another holder holds it."""
        hold = self._holds.pop(holder, None)
        if hold is None or any(other.hash == hold.hash for other in self._holds.values()):
            return
        try:
            await self._engine.cache("release", hold.hash)
        except EngineUnavailable:
            _log.debug("the engine ended before a prefix was released")
