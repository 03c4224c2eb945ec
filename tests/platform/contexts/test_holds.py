"""Hints give way to what is held by name: as many as it takes, the oldest first."""

from __future__ import annotations

from typing import Any

from multiflora_engine.protocol.messages import CacheReply
from multiflora_platform.contexts.budget import HoldRoom
from multiflora_platform.contexts.holds import Holder, PrefixHolds

ROOM = HoldRoom(num_blocks=128, block_size=16, share=0.1)


class Cache:
    """An engine, and all of them. has: what it has cached; None: all that it is asked for."""

    def __init__(self, id: str = "0", has: str | None = None) -> None:
        self.id, self.epoch, self.retired, self._has = id, 0, False, has
        self.pins: list[str] = []
        self.replicas = [self]

    def each(self) -> list[Cache]:
        return self.replicas

    async def cache(self, action: str, hash: str) -> CacheReply:
        if action == "hold" and self._has not in (None, hash):
            return CacheReply(0, "That prefix is not cached any more.")
        self.pins.append(hash) if action == "hold" else self.pins.remove(hash)
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


async def test_a_hold_is_lost_with_the_engines_that_have_it_and_with_no_other() -> None:
    engine: Any = Cache("0", has="here")
    other = Cache("1", has="there")
    engine.replicas = [engine, other]
    holds = PrefixHolds(engine)
    for number, hash in enumerate(("here", "there")):
        assert await holds.hold_hint(hint(number), "acme", hash, 1, ROOM)
    assert not await holds.hold_hint(hint(2), "acme", "nowhere", 1, ROOM)
    other.epoch += 1
    assert holds.lost() == {hint(1)}
    assert [one.holder for one in holds.held()] == [hint(0)]


async def test_an_engine_that_idles_holds_nothing_until_it_is_asked_again() -> None:
    cache: Any = Cache()
    holds, holder = PrefixHolds(cache), ("context", 1, None)
    assert await holds.hold(holder, "acme", "here", 1, ROOM)
    cache.retired = True
    assert (holds.lost(), holds.held()) == ({holder}, [])
    cache.retired, cache.epoch = False, 1
    assert holds.held() == []
    assert await holds.hold(holder, "acme", "here", 1, ROOM)
    assert [one.holder for one in holds.held()] == [holder]


async def test_what_is_held_again_is_held_while_the_engine_is_asked() -> None:
    cache: Any = Cache()
    holds, seen = PrefixHolds(cache), list[int]()
    answer = cache.cache

    async def looked_at(action: str, hash: str) -> CacheReply:
        assert not holds.lost(), "nor is it let go of as lost"
        seen.append(len(holds.held()))
        return await answer(action, hash)

    cache.cache = looked_at
    for hash in ("here", "here", "there"):
        assert await holds.hold(("context", 1, None), "acme", hash, 1, ROOM)
    assert seen == [0, 1, 0, 0], "asked for the first time, again, and for the other one once the first is released"
    cache.epoch += 1
    await holds.hold(("context", 1, None), "acme", "there", 1, ROOM)
    assert seen[4:] == [0], "the engine that held it has ended"


def hint(number: int) -> Holder:
    return "breakpoint", number, None
