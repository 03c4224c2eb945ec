"""A mirror that begins with what is held and follows the changes has what the pool has, whenever it looks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.cache.house import BLOCK, SHARED, House

from multiflora_engine.cache import cache_admin
from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import CacheReply, CacheRequest

NUM_BLOCKS = 16
BEGINNINGS = [[*SHARED], [*SHARED[:8], 5, 5, 5, 5], [7] * 9, [9] * 4]


class Mirror:
    """By hash: the parent's tag, the adapter and the owner."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, tuple[bytes, str | None, str]] = {}

    def apply(self, changes: list[CacheChange]) -> None:
        for change in changes:
            hashes = [change.hashes[at : at + HASH_BYTES] for at in range(0, len(change.hashes), HASH_BYTES)]
            for parent, hash in zip([change.parent, *hashes], hashes, strict=False):
                if change.is_removal:
                    self.blocks.pop(hash, None)
                else:
                    self.blocks[hash] = parent[:TAG_BYTES], change.adapter, change.owner


def held_of(house: House) -> Mirror:
    """As the pool and its index have it, block by block."""
    mirror, pool, index = Mirror(), house.scheduler.pool, house.control._index
    for block_id in range(NUM_BLOCKS):
        hash = pool.hash_of(block_id)
        if hash is not None:
            parent = b"" if index.begins_prompt(block_id) else index.parent_tag(block_id)
            place = index.place(block_id)
            mirror.blocks[hash] = parent, place.adapter, place.owner
    return mirror


def use(house: House, chance: random.Random) -> None:
    """A prompt, or an operator's hand."""
    if chance.random() < 0.8:
        owner = chance.choice(("t", "u"))
        adapter = chance.choice((None, "a"))
        ids = [*chance.choice(BEGINNINGS), *[chance.randrange(20, 23) for _ in range(chance.randrange(1, 14))]]
        house.prompt(ids, cache_owner=owner, cache_salt=owner, adapter_digest=adapter)
    elif nodes := house.ask("report").nodes:
        house.ask(chance.choice(("drop", "pin", "unpin")), chance.choice(nodes).hash)


def read_held(house: House, chance: random.Random, mirror: Mirror, pending: list[CacheChange], taken: int) -> int:
    """The pages of a snapshot, with traffic between and inside them; how many changes are taken and applied by then."""
    first: int | None = 0
    while first is not None:
        house.control.submit(CacheRequest(7, "held", first=first))
        replies: list[CacheReply] = []
        while not (replies := house.control.advance()):
            if chance.random() < 0.5:
                ids = [*chance.choice(BEGINNINGS), chance.randrange(20, 23), 1, 2, 3, 4]
                house.prompt(ids)
        pending += house.control.changes.take()
        # What came before the page, the page, and later what came behind it.
        before = replies[0].at - taken
        mirror.apply(pending[:before])
        del pending[:before]
        taken = replies[0].at
        mirror.apply(replies[0].held)
        first = replies[0].first
    return taken


@settings(max_examples=40)
@given(st.integers())
def test_a_mirror_equals_the_pool_after_random_traffic(seed: int) -> None:
    chance = random.Random(seed)
    house, mirror = House(NUM_BLOCKS), Mirror()
    with pytest.MonkeyPatch.context() as small:
        small.setattr(cache_admin, "_BLOCKS_OF_AN_ANSWER", 5)
        house.control._blocks_at_once = 2
        for _ in range(chance.randrange(8)):
            use(house, chance)
        house.control.changes.turn(True)
        pending: list[CacheChange] = []
        taken = read_held(house, chance, mirror, pending, 0)
        mirror.apply(pending)
        assert mirror.blocks == held_of(house).blocks
        for _ in range(12):
            use(house, chance)
        mirror.apply(house.control.changes.take())
        assert mirror.blocks == held_of(house).blocks
        assert house.control.changes.count >= taken


def test_blocks_in_a_row_are_one_run_and_a_block_whose_parent_is_gone_names_its_tag() -> None:
    house = House()
    house.prompt([*SHARED, *range(30, 39)], cache_owner="t")
    (held,) = house.ask("held").held
    assert (len(held.hashes) // HASH_BYTES, held.parent, held.owner) == (5, b"", "t")
    pool = house.scheduler.pool
    second = pool.find(held.hashes[HASH_BYTES : 2 * HASH_BYTES])
    assert second is not None
    pool.unpublish(second)
    first, rest = house.ask("held").held
    assert first.hashes == held.hashes[:HASH_BYTES]
    assert (rest.hashes, rest.parent) == (held.hashes[2 * HASH_BYTES :], held.hashes[HASH_BYTES:][:TAG_BYTES])
    assert len(house.ask("held", first=len(pool.tags)).held) == 0
    assert BLOCK * 5 == 20
