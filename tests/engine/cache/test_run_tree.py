"""The tree of runs beside a walk from block to block, over random traffic."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multiflora_engine.cache.block_hashes import block_hash, root_hash
from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_index import ROW
from multiflora_engine.cache.cache_snapshot import CacheSnapshot
from multiflora_engine.cache.run_tree import RunSummary, RunTree


@dataclass
class Block:
    block_id: int
    hash: bytes
    parent: bytes
    hits: int
    references: int
    published_at: float
    used_at: float


def tag(hash: bytes) -> int:
    return int.from_bytes(hash[:8], "little")


def snapshot_of(blocks: list[Block], num_blocks: int) -> CacheSnapshot:
    copy = CacheSnapshot.__new__(CacheSnapshot)
    copy.tags = np.zeros(num_blocks, np.uint64)
    copy.rows = np.zeros(num_blocks, ROW)
    copy.references = np.zeros(num_blocks, np.int32)
    for block in blocks:
        copy.tags[block.block_id] = tag(block.hash)
        copy.rows[block.block_id] = (tag(block.parent), 1, block.published_at, block.used_at, block.hits)
        copy.references[block.block_id] = block.references
    return copy


def walked_runs(blocks: list[Block], pinned: set[bytes]) -> list[list[Block]]:
    """The definition: from each beginning on, as long as there is one successor that was hit as often."""
    by_hash = {block.hash: block for block in blocks}
    children: defaultdict[bytes, list[Block]] = defaultdict(list)
    for block in blocks:
        children[block.parent].append(block)
    starts = [block for block in blocks if block.parent not in by_hash]
    runs = []
    while starts:
        run = [starts.pop()]
        while True:
            following = children[run[-1].hash]
            if len(following) != 1 or following[0].hits != run[-1].hits or run[-1].hash in pinned:
                break
            run.append(following[0])
        starts += children[run[-1].hash]
        runs.append(run)
    return runs


def walked_summaries(runs: list[list[Block]], most: int) -> list[RunSummary]:
    by_end = {run[-1].hash: run for run in runs}
    shown: dict[bytes, list[Block]] = {}
    for run in sorted(runs, key=lambda run: (-len(run), tag(run[-1].hash))):
        if len(shown) >= most:
            break
        while run[-1].hash not in shown:
            shown[run[-1].hash] = run
            if run[0].parent not in by_end:
                break
            run = by_end[run[0].parent]
    return [
        RunSummary(
            block_id=run[-1].block_id,
            tag=tag(run[-1].hash),
            parent=by_end[run[0].parent][-1].block_id if run[0].parent in by_end else None,
            num_blocks=len(run),
            hits=run[-1].hits,
            published_at=run[0].published_at,
            used_at=run[-1].used_at,
            is_referenced=any(block.references for block in run),
        )
        for run in shown.values()
    ]


ROOTS = [root_hash("base", adapter, salt) for adapter in (None, "a") for salt in ("t", "u")]


@st.composite
def caches(draw: st.DrawFn) -> tuple[list[Block], int]:
    """Any forest: blocks behind roots or others, in any places, some given away, so that what followed begins anew."""
    count = draw(st.integers(0, 40))
    num_blocks = count + draw(st.integers(1, 5))
    places = draw(st.permutations(range(num_blocks)))
    blocks: list[Block] = []
    for number in range(count):
        behind = draw(st.integers(max(-len(ROOTS), number - 6 - len(ROOTS)), number - 1))
        parent = blocks[behind].hash if behind >= 0 else ROOTS[behind]
        hits = draw(st.sampled_from([0, 0, 0, 1]))
        referenced = draw(st.sampled_from([0, 0, 0, 2]))
        hash = block_hash(parent, [number])
        blocks.append(Block(places[number], hash, parent, hits, referenced, number / 4, number / 2))
    kept = draw(st.lists(st.booleans(), min_size=count, max_size=count)) if draw(st.booleans()) else [True] * count
    return [block for block, is_kept in zip(blocks, kept, strict=True) if is_kept], num_blocks


@settings(deadline=None, max_examples=200)
@given(caches(), st.data())
def test_runs_are_those_of_a_walk(cache: tuple[list[Block], int], data: st.DataObject) -> None:
    blocks, num_blocks = cache
    pinned = (
        set(data.draw(st.lists(st.sampled_from([block.hash for block in blocks]), max_size=3))) if blocks else set()
    )
    tree = RunTree(snapshot_of(blocks, num_blocks), [tag(hash) for hash in pinned])
    runs = walked_runs(blocks, pinned)
    for most in (1, 3, 500):
        assert tree.longest(most) == walked_summaries(runs, most)
    ends = {run[-1].hash: run for run in runs}
    for block in blocks:
        ids, tags = tree.blocks(tree.run(tag(block.hash)))
        expected = ends.get(block.hash, [])
        assert ids.tolist() == [member.block_id for member in expected]
        assert tags.tolist() == [tag(member.hash) for member in expected]


@settings(deadline=None, max_examples=200)
@given(caches())
def test_what_continues_a_run_is_found_to_the_last_block(cache: tuple[list[Block], int]) -> None:
    blocks, num_blocks = cache
    tree = RunTree(snapshot_of(blocks, num_blocks), [])
    for run in walked_runs(blocks, set()):
        behind, reached = set[int](), {run[-1].hash}
        for block in blocks:  # parents stand before children
            if block.parent in reached:
                reached.add(block.hash)
                behind.add(block.block_id)
        ids, _ = tree.blocks(tree.with_all_behind(tree.run(tag(run[-1].hash))))
        assert ids[: len(run)].tolist() == [block.block_id for block in run]
        assert sorted(ids[len(run) :].tolist()) == sorted(behind)


def test_a_long_run_is_one_run() -> None:
    blocks, parent = [], ROOTS[0]
    for number in range(1500):
        blocks.append(Block(1499 - number, block_hash(parent, [number]), parent, 0, 0, 0.0, 0.0))
        parent = blocks[-1].hash
    tree = RunTree(snapshot_of(blocks, 1500), [])
    (run,) = tree.longest(500)
    assert (run.block_id, run.num_blocks, run.parent) == (0, 1500, None)
    assert tree.blocks(tree.run(run.tag))[0].tolist() == list(range(1499, -1, -1))


def test_a_content_that_moved_between_two_slices_is_there_once_and_where_it_came_later() -> None:
    content = block_hash(ROOTS[0], [1])
    blocks = [Block(block_id, content, ROOTS[0], 0, 0, float(block_id), 0.0) for block_id in (2, 5)]
    (run,) = RunTree(snapshot_of(blocks, 8), []).longest(500)
    assert run.block_id == 5


def test_an_empty_cache_has_no_runs() -> None:
    tree = RunTree(snapshot_of([], BlockPool(3).num_blocks), [])
    assert tree.longest(500) == []
    assert not len(tree.run(7))
