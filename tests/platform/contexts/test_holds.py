"""Hints give way to what is held by name: as many as it takes, the oldest first."""

from __future__ import annotations

from typing import Any

from multiflora_engine.protocol.messages import CacheReply
from multiflora_platform.contexts.budget import HoldRoom
from multiflora_platform.contexts.holds import Holder, PrefixHolds

ROOM = HoldRoom(num_blocks=128, block_size=16, share=0.1)


class Cache:
    def __init__(self) -> None:
        self.pins: list[str] = []

    async def cache(self, action: str, hash: str) -> CacheReply:
        self.pins.append(hash) if action == "pin" else self.pins.remove(hash)
        return CacheReply(0)


async def test_as_many_hints_give_way_as_it_takes() -> None:
    cache: Any = Cache()
    holds = PrefixHolds(cache)
    for number in range(4):
        assert await holds.hold_hint(hint(number), "acme", f"h{number}", 3, ROOM)
    assert await holds.hold_hint(hint(9), "other", "theirs", 3, ROOM)
    assert await holds.hold(("context", 1, None), "acme", "c", 6, ROOM)
    assert cache.pins == ["h2", "h3", "theirs", "c"]
    assert not await holds.hold(("context", 2, None), "acme", "d", 7, ROOM)
    assert cache.pins == ["theirs", "c"]


async def test_what_is_covered_takes_no_room_and_stays_when_there_is_none() -> None:
    cache: Any = Cache()
    holds = PrefixHolds(cache)
    assert await holds.hold_hint(hint(0), "acme", "short", 10, ROOM)
    assert not await holds.hold_hint(hint(1), "acme", "long", 12, ROOM)
    assert not await holds.hold_hint(hint(1), "acme", "long", 13, ROOM, [hint(0)])
    assert cache.pins == ["short"]
    assert await holds.hold_hint(hint(1), "acme", "long", 12, ROOM, [hint(0)])
    assert cache.pins == ["short", "long"]


def hint(number: int) -> Holder:
    return "breakpoint", number, None
