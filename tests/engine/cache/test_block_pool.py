"""BlockPool: every block is empty, used or evictable, and published content is found until it is taken."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.worth import NEW

NUM_BLOCKS = 6
H, FIRST, SECOND, *NAMES = (bytes([number]) * 32 for number in range(7))


def test_empty_blocks_are_taken_before_cached_ones() -> None:
    pool = BlockPool(3)
    (cached,) = pool.allocate(1)
    pool.publish(cached, H, "")
    pool.release([cached])
    assert cached not in pool.allocate(2)
    assert pool.find(H) == cached
    assert pool.allocate(1) == [cached]
    assert pool.find(H) is None
    assert pool.evictions == 1


def test_tails_are_evicted_before_heads() -> None:
    pool = BlockPool(3)
    table = pool.allocate(3)
    for hash, block_id in zip(NAMES[:3], table, strict=True):
        pool.publish(block_id, hash, "")
    pool.release(table)
    assert [pool.allocate(1)[0] for _ in range(3)] == table[::-1]


def test_a_hit_takes_the_block_out_of_the_free_ones() -> None:
    pool = BlockPool(2)
    (block_id,) = pool.allocate(1)
    pool.publish(block_id, H, "")
    pool.release([block_id])
    assert pool.num_free == 2
    assert pool.num_unreferenced([block_id]) == 1
    pool.share([block_id])
    pool.share([block_id])
    assert pool.num_free == 1
    assert pool.num_unreferenced([block_id]) == 0
    pool.release([block_id])
    assert pool.allocate(1) != [block_id]


def test_the_second_copy_of_content_stays_private() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.publish(first, H, "")
    pool.publish(second, H, "")
    assert pool.find(H) == first
    assert pool.num_published == 1
    pool.release([second])
    assert pool.allocate(1) == [second]
    assert pool.find(H) == first


def answered(pool: BlockPool, hashes: list[bytes]) -> int:
    """A client's request of so many blocks, whose answer adds none; the uses that its new blocks begin with."""
    hits = array("i")
    while (block_id := pool.find(hashes[len(hits)])) is not None:
        hits.append(block_id)
    pool.share(hits)
    missed = hashes[len(hits) :]
    table = array("i", [*hits, *pool.allocate(len(missed))])
    uses = pool.begin(hits, missed)
    pool.publish_all(table[len(hits) :], missed, "", uses)
    pool.release(table)
    return uses


def test_what_grows_is_expected_to_grow_on_at_each_turn() -> None:
    pool = BlockPool(6)
    assert [answered(pool, NAMES[:length]) for length in (1, 2, 3, 4)] == [NEW, NEW + 1, NEW + 1, NEW + 1]


def test_of_many_that_go_on_behind_one_context_only_the_first_is_taken_for_its_growth() -> None:
    pool = BlockPool(6)
    assert answered(pool, [H]) == NEW
    assert [answered(pool, [H, question]) for question in NAMES[:3]] == [NEW + 1, NEW, NEW]


def test_misuse_is_noticed() -> None:
    pool = BlockPool(1)
    (block_id,) = pool.allocate(1)
    with pytest.raises(AssertionError, match="private"):
        pool.share([block_id])
    with pytest.raises(AssertionError, match="num_free"):
        pool.allocate(1)
    pool.release([block_id])
    with pytest.raises(AssertionError, match="released"):
        pool.release([block_id])


class BlockMachine(RuleBasedStateMachine):
    """Holders take, share, publish and drop tables in any order; `content` is what each block would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.tables: list[list[int]] = []
        self.published: dict[bytes, int] = {}

    def used(self) -> Counter[int]:
        return Counter(block_id for table in self.tables for block_id in table)

    @rule(count=st.integers(1, 3))
    def allocate(self, count: int) -> None:
        if count > self.pool.num_free:
            return
        table = self.pool.allocate(count)
        assert not set(table) & set(self.used())
        assert len(set(table)) == count
        self.published = {hash: block_id for hash, block_id in self.published.items() if block_id not in table}
        self.tables.append(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), hash=st.sampled_from(NAMES), owner=st.sampled_from(["x", "y"]))
    def publish(self, data: st.DataObject, hash: bytes, owner: str) -> None:
        private = sorted(set(self.used()) - set(self.published.values()))
        if private:
            block_id = data.draw(st.sampled_from(private))
            self.pool.publish(block_id, hash, owner)
            self.published.setdefault(hash, block_id)

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        hash = data.draw(st.sampled_from(sorted(self.published)))
        block_id = self.pool.find(hash)
        assert block_id is not None
        self.pool.share([block_id])
        self.tables.append([block_id])

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @invariant()
    def agrees(self) -> None:
        used = self.used()
        assert [self.pool.references(block_id) for block_id in range(NUM_BLOCKS)] == [
            used[b] for b in range(NUM_BLOCKS)
        ]
        assert self.pool.num_free == NUM_BLOCKS - len(used)
        assert self.pool.num_published == len(self.published)
        for hash, block_id in self.published.items():
            assert self.pool.find(hash) == block_id


TestBlockMachine = BlockMachine.TestCase
TestBlockMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_an_eviction_is_told_before_the_block_is_given_away() -> None:
    told: list[tuple[int, bytes, int]] = []
    pool = BlockPool(2, on_evict=lambda block_id, hash: told.append((block_id, hash, pool.references(block_id))))
    first, second = pool.allocate(2)
    pool.publish(first, FIRST, "")
    pool.publish(second, SECOND, "")
    pool.release([first, second])
    pool.unpublish(first)
    assert told == [(first, FIRST, 0)]
    assert set(pool.allocate(2)) == {first, second}
    assert told[1:] == [(second, SECOND, 0)], "while nothing references it: its content is still there to be copied"
