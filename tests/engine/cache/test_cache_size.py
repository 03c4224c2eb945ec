"""What a large cache costs: memory of a block, and work of one step while operators look at it and drop from it."""

from __future__ import annotations

import tracemalloc
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from multiflora_engine.cache import cache_admin, cache_snapshot
from multiflora_engine.cache.block_hashes import root_hash
from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.cache.cache_index import CacheIndex, Place
from multiflora_engine.cache.cache_snapshot import CacheSnapshot
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.cache.run_tree import RunTree
from multiflora_engine.core.sequence import make_sequences
from multiflora_engine.protocol.messages import CacheReply, CacheRequest
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

BLOCK = 16
PROMPT_BLOCKS = 64


class CountedPool(BlockPool):
    """Counts the blocks that it is asked to change."""

    changes = 0

    def unpublish(self, block_id: int) -> None:
        self.changes += 1
        super().unpublish(block_id)

    def share(self, block_ids: Any, owner: str = "") -> None:
        self.changes += len(block_ids)
        super().share(block_ids, owner)

    def release(self, block_ids: Any) -> None:
        self.changes += len(block_ids)
        super().release(block_ids)


class Cache:
    def __init__(self, num_blocks: int) -> None:
        self.index = CacheIndex(num_blocks, BLOCK)
        self.pool = CountedPool(num_blocks, on_evict=self.index.on_evict)
        self.prefixes = PrefixCache(self.pool, self.index, "base", BLOCK)
        self.admin = CacheAdmin(self.pool, self.index)

    def compute(self, number: int, num_blocks: int = PROMPT_BLOCKS, tenant: str = "t") -> None:
        prompt = [number, *range(1, num_blocks * BLOCK + 1)]
        request = GenerateRequest(
            id="r", prompt_token_ids=prompt, params=SamplingParams(max_tokens=1), cache_salt=tenant, cache_owner=tenant
        )
        (sequence,) = make_sequences(request, number)
        sequence.root_hash = root_hash("base", None, tenant)
        sequence.block_hashes = self.prefixes.new_hashes(sequence)
        sequence.block_table = array("i", self.pool.allocate(num_blocks, tenant))
        self.prefixes.publish(sequence, 0, num_blocks)
        self.pool.release(sequence.block_table)

    def ask(self, action: str, hash: str = "") -> CacheReply:
        return self.asked(action, hash)[0]

    def asked(self, action: str, hash: str = "") -> tuple[CacheReply, int]:
        """The answer, and the most blocks that one part changed."""
        self.admin.submit(CacheRequest(1, action, hash))
        most = 0
        while True:
            before = self.pool.changes
            replies = self.admin.advance()
            most = max(most, self.pool.changes - before)
            if replies:
                return replies[0], most


def test_a_published_block_takes_less_than_180_bytes() -> None:
    num_blocks = 32_768
    tracemalloc.start()
    try:
        cache = Cache(num_blocks)
        for number in range(num_blocks // PROMPT_BLOCKS):
            cache.compute(number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.pool.num_published == num_blocks
    assert taken / num_blocks < 180


def test_a_report_copies_a_bounded_part_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    num_blocks = 200_000
    cache = Cache(num_blocks)
    for number in range(100):
        cache.compute(number)
    copied: list[int] = []
    copy_slice = CacheSnapshot.copy_slice

    def counted(self: CacheSnapshot, num_rows: int) -> bool:
        before = self.num_copied
        goes_on = copy_slice(self, num_rows)
        copied.append(self.num_copied - before)
        return goes_on

    monkeypatch.setattr(CacheSnapshot, "copy_slice", counted)
    cache.admin.submit(CacheRequest(1, "report"))
    while not (replies := cache.admin.advance()):
        assert len(copied) <= -(-num_blocks // 8192)
    assert sum(copied) == num_blocks
    assert max(copied) == 8192, "a slice in a step; nothing else of it grows with the pool"
    assert sum(node.blocks for node in replies[0].nodes) == 100 * PROMPT_BLOCKS


def test_what_a_look_took_is_given_back_one_array_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, told, taken = Cache(128), list[str](), list[RunTree | CacheSnapshot]()
    cache.compute(1)

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            told.append(self.name)

    def planted(snapshot: CacheSnapshot, pinned: list[int]) -> RunTree:
        """With what tells when it is given back."""
        tree = RunTree(snapshot, pinned)
        for holder in (tree, snapshot):
            holder.__dict__ |= {name: Told(f"{type(holder).__name__}'s {name}") for name in ("first", "last")}
        taken.extend((tree, snapshot))
        return tree

    monkeypatch.setattr(cache_admin, "RunTree", planted)
    monkeypatch.setattr(cache_snapshot, "time", SimpleNamespace(sleep=lambda seconds: told.append("")))
    assert len(cache.ask("report").nodes) == 1
    assert [vars(holder) for holder in taken] == [{}, {}]
    names = [(at, name) for at, name in enumerate(told) if name]
    holders = ("RunTree", "CacheSnapshot")
    assert [name for _, name in names] == [f"{holder}'s {name}" for holder in holders for name in ("last", "first")]
    assert all(told[at + 1] == "" for at, _ in names), "others go on behind each"


def test_pins_and_drops_change_a_bounded_number_of_blocks_in_each_step() -> None:
    cache = Cache(8192)
    cache.compute(1, num_blocks=3000)
    cache.compute(2, num_blocks=50)
    run = max(cache.ask("report").nodes, key=lambda node: node.blocks)
    assert run.blocks == 3000
    for action in ("pin", "unpin", "pin", "drop"):
        reply, most = cache.asked(action, run.hash)
        assert reply.error is None
        # A drop in the middle of which a block is unpinned changes it twice.
        assert 0 < most <= 2 * 256
    assert [node.blocks for node in cache.ask("report").nodes] == [50]
    assert cache.pool.num_free == 8192


def test_blocks_that_are_given_away_during_a_report_are_never_shown_as_another_tenants() -> None:
    cache = Cache(1024)
    admin = CacheAdmin(cache.pool, cache.index, rows_at_once=64)
    for number in range(16):
        cache.compute(number, tenant="before")
    owners: dict[str, str] = {}
    for after in range(1, 60):
        admin.submit(CacheRequest(1, "report"))
        for step in range(after):
            if replies := admin.advance():
                break
            if step % 5 == 4:  # takes the oldest blocks from another tenant while the copy is under way
                cache.compute(1000 * after + step, tenant=f"tenant {step % 3}")
        while not replies:
            replies = admin.advance()
        for node in replies[0].nodes:
            block_id = cache.pool.find(bytes.fromhex(node.hash))
            assert owners.setdefault(node.hash, node.owner) == node.owner
            assert block_id is None or cache.index.place(block_id) == Place(None, node.owner, node.adapter)
        assert {node.parent for node in replies[0].nodes} <= {None, *(node.hash for node in replies[0].nodes)}


def test_reports_that_wait_together_are_answered_together() -> None:
    cache = Cache(128)
    cache.compute(1)
    for call_id, action in ((1, "report"), (2, "unpin"), (3, "report")):
        cache.admin.submit(CacheRequest(call_id, action, "00" * 32))
    answers = []
    while cache.admin.has_work:
        answers.append([reply.call_id for reply in cache.admin.advance()])
    assert [answered for answered in answers if answered] == [[1, 3], [2]]


def test_what_goes_wrong_in_a_request_is_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(128)
    cache.compute(1)
    with monkeypatch.context() as broken:
        broken.setattr("multiflora_engine.cache.cache_admin.RunTree", lambda copy, pinned: 1 // 0)
        assert "ZeroDivisionError" in str(cache.ask("report").error)
    assert cache.ask("report").error is None
