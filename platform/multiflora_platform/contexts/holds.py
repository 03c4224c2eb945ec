"""Which cached prefixes the engine holds on purpose, and for what: several holders may share one.

The engine knows pins by the hash of a prefix's last block; that a pin is wanted more than once is known here. An engine
that was restarted has no pins: holders hold again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.engine import EngineHandle

_log = logging.getLogger(__name__)
# What a prefix is held for: its kind, and what tells it from others of the kind.
Holder = tuple[str, int, str | None]


@dataclass(frozen=True)
class _Hold:
    tenant: str
    hash: str
    blocks: int


class PrefixHolds:
    def __init__(self, engine: EngineHandle) -> None:
        self._engine = engine
        self._holds: dict[Holder, _Hold] = {}

    def blocks(self, tenant: str) -> int:
        """That the tenant holds; what two of its holders share counts twice."""
        return sum(hold.blocks for hold in self._holds.values() if hold.tenant == tenant)

    def holds(self, holder: Holder) -> bool:
        return holder in self._holds

    def holders(self, kind: str) -> list[Holder]:
        return [holder for holder in self._holds if holder[0] == kind]

    async def hold(self, holder: Holder, tenant: str, hash: str, blocks: int, most: int) -> bool:
        """The prefix that ends with the block of this hash (hexadecimal) stays cached until it is released. False: it
        is not cached, or the tenant would hold more than `most` blocks, or pins more than the engine allows.

        Holding again what is held asks the engine again: it may have been restarted, or an operator dropped it.
        Raises EngineUnavailable.
        """
        present = self._holds.get(holder)
        if present is not None and present.hash != hash:
            await self.release(holder)
            present = None
        if self.blocks(tenant) - (present.blocks if present else 0) + blocks > most:
            await self.release(holder)
            return False
        self._holds[holder] = _Hold(tenant, hash, blocks)
        try:
            reply = await self._engine.cache("pin", hash)
        except EngineUnavailable:
            self._holds.pop(holder, None)
            raise
        if reply.error is not None:
            _log.debug("a prefix of %s is not held: %s", tenant or "the admins", reply.error)
            self._holds.pop(holder, None)
            return False
        return True

    async def release(self, holder: Holder) -> None:
        """It may be evicted again, unless another holder holds it."""
        hold = self._holds.pop(holder, None)
        if hold is None or any(other.hash == hold.hash for other in self._holds.values()):
            return
        try:
            await self._engine.cache("unpin", hold.hash)
        except EngineUnavailable:
            _log.debug("the engine ended before a prefix was released")
