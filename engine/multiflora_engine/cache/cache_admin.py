"""The prefix cache as operators see and steer it: runs of blocks as a tree, pins that nothing evicts, and dropping.

Used between steps. A pin is a reference that no sequence computes with, so the pool needs to know nothing of it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_index import CachedBlock, CacheIndex
from multiflora_engine.protocol.messages import CacheNode, CacheReply, CacheRequest

_MOST_NODES = 500
_PINNED_SHARE = 0.5

Run = list[CachedBlock]


class _Refused(Exception):
    """What an operator asked for cannot be done."""


class CacheAdmin:
    """Answers CacheRequest. clock: Unix seconds."""

    def __init__(self, pool: BlockPool, index: CacheIndex, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._index = index
        self._clock = clock
        self._pins: dict[bytes, list[int]] = {}

    def answer(self, request: CacheRequest) -> CacheReply:
        try:
            match request.action:
                case "report":
                    return CacheReply(request.call_id, nodes=self._report())
                case "tokens":
                    return CacheReply(request.call_id, token_ids=self._tokens(_run_of(self._runs(), request.hash)))
                case "pin":
                    self._pin(bytes.fromhex(request.hash))
                case "unpin":
                    self._unpin(bytes.fromhex(request.hash))
                case "drop":
                    self._drop(_run_of(self._runs(), request.hash))
        except _Refused as refusal:
            return CacheReply(request.call_id, error=str(refusal))
        return CacheReply(request.call_id)

    def _report(self) -> list[CacheNode]:
        """The longest runs; parents of those that are shown are shown, too."""
        runs = self._runs()
        ends = {run[-1].hash: run for run in runs}
        shown: dict[bytes, Run] = {}
        for run in sorted(runs, key=len, reverse=True):
            if len(shown) >= _MOST_NODES:
                break
            while run[-1].hash not in shown:
                shown[run[-1].hash] = run
                if run[0].parent not in ends:
                    break
                run = ends[run[0].parent]
        return [self._node(run, run[0].parent if run[0].parent in ends else None) for run in shown.values()]

    def _node(self, run: Run, parent: bytes | None) -> CacheNode:
        now, last = self._clock(), run[-1]
        ids = [block_id for block in run if (block_id := self._pool.find(block.hash)) is not None]
        return CacheNode(
            hash=last.hash.hex(),
            parent=None if parent is None else parent.hex(),
            adapter=last.adapter,
            owner=last.owner,
            tokens=sum(len(block.token_ids) for block in run),
            blocks=len(run),
            hits=last.hits,
            age_seconds=now - run[0].published_at,
            idle_seconds=now - last.used_at,
            pinned=last.hash in self._pins,
            referenced=any(self._pool.references(block_id) for block_id in ids),
        )

    def _runs(self) -> list[Run]:
        """The tree's blocks, joined where one has a single successor that was hit as often."""
        children: defaultdict[bytes, list[CachedBlock]] = defaultdict(list)
        for block in self._index.blocks():
            children[block.parent].append(block)
        starts = [block for block in self._index.blocks() if self._index.find(block.parent) is None]
        runs: list[Run] = []
        while starts:
            run = [starts.pop()]
            while True:
                following = children.get(run[-1].hash, [])
                if len(following) != 1 or following[0].hits != run[-1].hits or run[-1].hash in self._pins:
                    break
                run.append(following[0])
            starts += children.get(run[-1].hash, [])
            runs.append(run)
        return runs

    def _tokens(self, run: Run) -> list[int]:
        return [token_id for block in run for token_id in block.token_ids]

    def _pin(self, hash: bytes) -> None:
        """The block and all before it stay until they are unpinned."""
        if hash in self._pins:
            return
        chain = [self._pool.find(block.hash) for block in self._chain(hash)]
        ids = [block_id for block_id in reversed(chain) if block_id is not None]
        if not ids or len(ids) < len(chain):
            raise _Refused("That prefix is not cached any more.")
        held = {block_id for pinned in self._pins.values() for block_id in pinned}
        if len(held.union(ids)) > self._pool.num_blocks * _PINNED_SHARE:
            raise _Refused("Pins may take half of the KV blocks; unpin something first.")
        self._pool.share(ids)
        self._pins[hash] = ids

    def _unpin(self, hash: bytes) -> None:
        ids = self._pins.pop(hash, None)
        if ids is not None:
            self._pool.release(ids)

    def _drop(self, run: Run) -> None:
        """The run and everything behind it is not found any more; sequences that use it go on."""
        children: defaultdict[bytes, list[CachedBlock]] = defaultdict(list)
        for block in self._index.blocks():
            children[block.parent].append(block)
        doomed, queue = [*run], [run[-1].hash]
        while queue:
            following = children.get(queue.pop(), [])
            doomed += following
            queue += [block.hash for block in following]
        for block in doomed:
            self._unpin(block.hash)
        for block in doomed:
            self._pool.unpublish(block.hash)

    def _chain(self, hash: bytes) -> Iterator[CachedBlock]:
        """The block, then those before it."""
        block = self._index.find(hash)
        while block is not None:
            yield block
            block = self._index.find(block.parent)


def _run_of(runs: list[Run], hash: str) -> Run:
    """The run that ends with the block. Raises _Refused."""
    for run in runs:
        if run[-1].hash.hex() == hash:
            return run
    raise _Refused("That prefix is not cached any more.")
