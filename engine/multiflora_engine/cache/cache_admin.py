"""The prefix cache as operators see and steer it: runs of blocks as a tree, pins that nothing evicts, and dropping.

Used between steps, a part of bounded size at a time, so that a step waits for no request; what needs all blocks at once
is computed on a thread from a copy. A pin is a reference that no sequence computes with, so the pool needs to know
nothing of it.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_index import CacheIndex, Place
from multiflora_engine.cache.cache_snapshot import CacheSnapshot, free_in_turn
from multiflora_engine.cache.changes.held_blocks import held_blocks
from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.cache.run_tree import Positions, RunSummary, RunTree
from multiflora_engine.cache.trace_recorder import TraceRecorder
from multiflora_engine.core.block_tiers import BlockTiers
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import CacheNode, CacheReply, CacheRequest

_log = logging.getLogger(__name__)

_MOST_NODES = 500
_PINNED_SHARE = 0.5
_RUNS_AT_ONCE = 64
# Of one answer, which the step loop writes: well below a millisecond.
_BLOCKS_OF_AN_ANSWER = 8_192
# The holder of what operators pin, who are no gateway.
_OPERATORS = "operators"
_ABANDON = "abandon"
_GONE = "That prefix is not cached any more."

Result = TypeVar("Result")
# One request's work; it yields at the end of each part whether it waits for the thread.
Work = Generator[bool, None, Result]
_GOES_ON, _WAITS = False, True


class _Refused(Exception):
    """What an operator asked for cannot be done."""


class CacheAdmin:
    """Answers CacheRequest, one after the other. clock: Unix seconds.

    What one call of `advance` does at most: rows_at_once are copied, blocks_at_once dropped, pinned or read; either is
    well below a millisecond.
    recorder: is told of sequences that end. changes: of blocks that are published and given up. has_work: a request is
    not answered yet. is_waiting: for the thread only, so there is nothing to do for the caller.
    """

    def __init__(
        self,
        pool: BlockPool,
        index: CacheIndex,
        clock: Callable[[], float] = time.time,
        rows_at_once: int = 8_192,
        blocks_at_once: int = 256,
        tiers: BlockTiers | None = None,
    ) -> None:
        self._pool = pool
        self._index = index
        self._clock = clock
        self._tiers = tiers
        self._rows_at_once = rows_at_once
        self._blocks_at_once = blocks_at_once
        # The block's hash, then its own id and those of all blocks before it.
        self._pins: dict[bytes, array[int]] = {}
        # Of each pin: the gateways that hold it, and _OPERATORS.
        self._holders: dict[bytes, set[str]] = {}
        # Pins that each block is in.
        self._pinned: Counter[int] = Counter()
        self.recorder = TraceRecorder(index.block_size, clock)
        self.changes = index.changes
        self._thread: Executor = ThreadPoolExecutor(1, "cache-tree")
        self._requests: deque[CacheRequest] = deque()
        self._work: Work[CacheReply] | None = None
        self._call_ids: list[int] = []
        self.is_waiting = False

    @property
    def has_work(self) -> bool:
        return self._work is not None or bool(self._requests)

    def submit(self, request: CacheRequest) -> None:
        """`advance` will answer it."""
        self._requests.append(request)

    def abandon(self, holder: str) -> None:
        """A gateway is gone for good: `advance` lets go of what it held, unless it is held for others, too."""
        self._requests.append(CacheRequest(0, _ABANDON, holder=holder))

    def advance(self) -> list[CacheReply]:
        """Does one part of the work; the answers that are complete."""
        if self._work is None:
            if not self._requests:
                return []
            self._work = self._begin()
        try:
            self.is_waiting = next(self._work)
        except StopIteration as end:
            self._work, self.is_waiting = None, False
            return [replace(end.value, call_id=call_id) for call_id in self._call_ids]
        return []

    def _begin(self) -> Work[CacheReply]:
        """The oldest request's work. All that wait for a report get the same one."""
        request = self._requests.popleft()
        self._call_ids = [] if request.action == _ABANDON else [request.call_id]
        if request.action == "report":
            self._call_ids += [other.call_id for other in self._requests if other.action == "report"]
            self._requests = deque(other for other in self._requests if other.action != "report")
        return self._answer(request)

    def _answer(self, request: CacheRequest) -> Work[CacheReply]:
        reply = CacheReply(request.call_id)
        try:
            match request.action:
                case "report":
                    return replace(reply, nodes=(yield from self._report()))
                case "tokens":
                    return replace(reply, token_ids=(yield from self._tokens(bytes.fromhex(request.hash))))
                case "find":
                    found = yield from self._count(request.chain, 0, self._is_cached)
                    reached = yield from self._count(request.chain, found, self._is_reached)
                    missed = request.chain[reached * HASH_BYTES : (reached + 1) * HASH_BYTES]
                    evicted = bool(missed) and missed in self._pool.evicted
                    return replace(reply, found=found, reached=reached, evicted=evicted)
                case "trace":
                    traced, lost, has_more = self.recorder.take()
                    return replace(reply, traced=traced, lost=lost, has_more=has_more)
                case "held":
                    # Before the first part is read: what changes from now on is told behind it.
                    reply = replace(reply, at=self.changes.count)
                    held, next_block = yield from self._held(request.first)
                    return replace(reply, held=held, first=next_block)
                case "pin":
                    yield from self._hold(bytes.fromhex(request.hash), _OPERATORS)
                case "hold":
                    yield from self._hold(bytes.fromhex(request.hash), request.holder)
                case "release":
                    yield from self._release(bytes.fromhex(request.hash), request.holder)
                case "abandon":
                    for hash in [one for one, holders in self._holders.items() if request.holder in holders]:
                        yield from self._release(hash, request.holder)
                case "unpin":
                    yield from self._unpin(bytes.fromhex(request.hash))
                case "drop":
                    yield from self._drop(bytes.fromhex(request.hash))
        except _Refused as refusal:
            return replace(reply, error=str(refusal))
        except Exception as error:
            # What an operator asks for must not end the loop that serves all requests.
            _log.exception("The cache request %s failed", request.action)
            return replace(reply, error=f"The engine could not do it: {type(error).__name__}; its log says more.")
        return reply

    def _in_tree(self, look: Callable[[RunTree], Result]) -> Work[Result]:
        """What the thread finds in the tree of all blocks."""
        snapshot = yield from _result_of(self._thread.submit(CacheSnapshot, self._pool, self._index))
        while snapshot.copy_slice(self._rows_at_once):
            yield _GOES_ON
        pinned = [_tag(hash) for hash in self._pins]
        found = self._thread.submit(_found, look, snapshot, pinned)
        # The thread gives the copy's memory back.
        del snapshot
        return (yield from _result_of(found))

    def _report(self) -> Work[list[CacheNode]]:
        """The longest runs; parents of those that are shown are shown, too."""
        runs = yield from self._in_tree(lambda tree: tree.longest(_MOST_NODES))
        # A block may have been given away since it was copied: what is shown is of now, or not shown.
        found: dict[int | None, tuple[bytes, Place]] = {}
        for part in _parts(runs, _RUNS_AT_ONCE):
            for run in part:
                if (hash := self._hash(run)) is not None:
                    found[run.block_id] = hash, self._index.place(run.block_id)
            yield _GOES_ON
        nodes: list[CacheNode] = []
        for part in _parts([run for run in runs if run.block_id in found], _RUNS_AT_ONCE):
            for run in part:
                parent, _ = found.get(run.parent, (None, None))
                nodes.append(self._node(run, *found[run.block_id], parent))
            yield _GOES_ON
        return nodes

    def _hash(self, run: RunSummary) -> bytes | None:
        """Of its last block; None if that is not the block that was copied."""
        hash = self._pool.hash_of(run.block_id)
        return hash if hash is not None and _tag(hash) == run.tag else None

    def _node(self, run: RunSummary, hash: bytes, place: Place, parent: bytes | None) -> CacheNode:
        age = self._clock() - self._index.began
        return CacheNode(
            hash=hash.hex(),
            parent=None if parent is None else parent.hex(),
            adapter=place.adapter,
            owner=place.owner,
            tokens=run.num_blocks * self._index.block_size,
            blocks=run.num_blocks,
            hits=run.hits,
            age_seconds=age - run.published_at,
            idle_seconds=age - run.used_at,
            pinned=hash in self._pins,
            referenced=run.is_referenced,
        )

    def _tokens(self, hash: bytes) -> Work[list[int]]:
        """Of the run that ends with the block. Raises _Refused."""
        block_ids, tags = yield from self._find_run(hash, lambda tree, run: run)
        token_ids: list[int] = []
        for start in range(0, len(block_ids), self._blocks_at_once):
            part = slice(start, start + self._blocks_at_once)
            if not self._are_cached(block_ids[part], tags[part]).all():
                raise _Refused(_GONE)
            token_ids += self._index.tokens[block_ids[part]].ravel().tolist()
            yield _GOES_ON
        return token_ids

    def _count(self, chain: bytes, known: int, is_there: Callable[[bytes], bool]) -> Work[int]:
        """How many of these blocks are there, from the first one on. What is looked up is not used thereby.

        known: so many are there, and are not looked up.
        """
        for start in range(known * HASH_BYTES, len(chain), HASH_BYTES):
            if not is_there(chain[start : start + HASH_BYTES]):
                return start // HASH_BYTES
            if (start // HASH_BYTES + 1) % self._blocks_at_once == 0:
                yield _GOES_ON
        return len(chain) // HASH_BYTES

    def _held(self, first: int) -> Work[tuple[list[CacheChange], int | None]]:
        """Blocks from this id on, and with which the next answer begins; None: these were the last."""
        held: list[CacheChange] = []
        end = min(first + _BLOCKS_OF_AN_ANSWER, self._pool.num_blocks)
        for start in range(first, end, self._blocks_at_once):
            held += held_blocks(self._pool, self._index, start, min(start + self._blocks_at_once, end))
            yield _GOES_ON
        return held, end if end < self._pool.num_blocks else None

    def _is_cached(self, hash: bytes) -> bool:
        return self._pool.find(hash) is not None

    def _is_reached(self, hash: bytes) -> bool:
        return self._is_cached(hash) or (self._tiers is not None and self._tiers.holds(hash))

    def _hold(self, hash: bytes, holder: str) -> Work[None]:
        """Raises _Refused."""
        yield from self._pin(hash)
        self._holders.setdefault(hash, set()).add(holder)

    def _release(self, hash: bytes, holder: str) -> Work[None]:
        holders = self._holders.get(hash, set())
        holders.discard(holder)
        if not holders:
            yield from self._unpin(hash)

    def _pin(self, hash: bytes) -> Work[None]:
        """The block and all before it stay until they are unpinned. Raises _Refused."""
        if hash in self._pins:
            return
        block_id = self._pool.find(hash)
        if block_id is None:
            raise _Refused(_GONE)
        ids = self._pins[hash] = array("i")
        while block_id is not None:
            self._pool.share([block_id])
            ids.append(block_id)
            self._pinned[block_id] += 1
            if len(self._pinned) > self._pool.num_blocks * _PINNED_SHARE:
                yield from self._unpin(hash)
                raise _Refused("Pins may take half of the KV blocks; unpin something first.")
            if len(ids) % self._blocks_at_once == 0:
                yield _GOES_ON
            block_id = self._pool.find(self._index.parent_tag(ids[-1]))

    def _unpin(self, hash: bytes) -> Work[None]:
        ids = self._pins.get(hash, array("i"))
        while ids:
            part = ids[: self._blocks_at_once]
            del ids[: self._blocks_at_once]
            # What an operator holds no more is kept by its next use alone.
            self._pool.cool(part)
            # `release` begins with the last one, and the heads of prefixes live longest.
            self._pool.release(part[::-1])
            for block_id in part:
                self._pinned[block_id] -= 1
                if not self._pinned[block_id]:
                    del self._pinned[block_id]
            if ids:
                yield _GOES_ON
        self._pins.pop(hash, None)
        self._holders.pop(hash, None)

    def _drop(self, hash: bytes) -> Work[None]:
        """The run and everything behind it is not found any more; sequences that use it go on. Raises _Refused.

        The run's first block goes first: no sequence can start on what is behind it from then on.
        """
        block_ids, tags = yield from self._find_run(hash, RunTree.with_all_behind)
        for start in range(0, len(block_ids), self._blocks_at_once):
            part = slice(start, start + self._blocks_at_once)
            cached = block_ids[part][self._are_cached(block_ids[part], tags[part])].tolist()
            hashes = [known for block_id in cached if (known := self._pool.hash_of(block_id))]
            for block_id in cached:
                yield from self._drop_block(block_id)
            if self._tiers is not None:
                self._tiers.drop(hashes)
            yield _GOES_ON

    def _drop_block(self, block_id: int) -> Work[None]:
        hash = self._pool.hash_of(block_id)
        if hash in self._pins:
            yield from self._unpin(hash)
        # Unpinned in parts, it may be given away before the last of them.
        if hash is not None and self._pool.hash_of(block_id) == hash:
            self._pool.unpublish(block_id)

    def _find_run(
        self, hash: bytes, extend: Callable[[RunTree, Positions], Positions]
    ) -> Work[tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]]:
        """Ids and tags of the run that ends with the block, extended. Raises _Refused."""

        def look(tree: RunTree) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
            run = tree.run(_tag(hash))
            return tree.blocks(extend(tree, run) if len(run) else run)

        block_ids, tags = yield from self._in_tree(look)
        if not len(block_ids):
            raise _Refused(_GONE)
        return block_ids, tags

    def _are_cached(self, block_ids: npt.NDArray[np.intp], tags: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each is the block that was copied and is still published."""
        is_published = self._index.rows["place"][block_ids] != 0
        return np.asarray(is_published & (self._pool.tags[block_ids] == tags))


def _found(look: Callable[[RunTree], Result], snapshot: CacheSnapshot, pinned: list[int]) -> Result:
    """What is found in the copy, whose memory is given back, as is the tree's."""
    tree = RunTree(snapshot, pinned)
    try:
        return look(tree)
    finally:
        free_in_turn(tree)
        free_in_turn(snapshot)


def _tag(hash: bytes) -> int:
    return int.from_bytes(hash[:TAG_BYTES], "little")


def _result_of(future: Future[Result]) -> Work[Result]:
    while not future.done():
        yield _WAITS
    return future.result()


def _parts(runs: list[RunSummary], size: int) -> Iterator[list[RunSummary]]:
    return (runs[start : start + size] for start in range(0, len(runs), size))
