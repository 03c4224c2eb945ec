"""Published KV blocks copied to host memory and disk behind the step loop, and back ahead of a request's start.

One thread of its own copies and owns the tiers; the step loop hands it lists and takes finished loads. Loads go first.
A block is copied while it may be given away: it was not, if its generation is the same afterwards.
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b

from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.core.block_tiers import BlockChain, BlockLoad
from multiflora_engine.offload.block_memory import BlockMemory
from multiflora_engine.offload.folders import OffloadFolder
from multiflora_engine.offload.slot_index import OWNER_BYTES
from multiflora_engine.offload.step_pace import StepPace
from multiflora_engine.offload.tier import Pace, Tier
from multiflora_engine.offload.tier_slots import KeptBlock
from multiflora_engine.offload.transfer_cost import TransferCost
from multiflora_engine.protocol.messages import TierStats

_log = logging.getLogger(__name__)

# Lists of blocks that are to be copied; the oldest are forgotten for newer ones.
_MOST_JOBS = 4096
# Tokens of a step whose time says what computing a prompt takes.
_FEWEST_TOKENS = 32
_USED_AT_ONCE = 64
_CLOSING_SECONDS = 2.0

Job = Callable[[], None]


class Offloading:
    """The scheduler's BlockTiers. tiers: the fastest first, all of the memory's block_bytes.

    paced: whether steps compute on the processor that copies; then StepPace is asked. folder: the disk tier's, if there
    is one, which is this process's until it ends. on_loaded: called by the thread with each load that ended; in place
    of what there is at first, `finished` tells of none.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        memory: BlockMemory,
        num_blocks: int,
        block_size: int,
        paced: bool = True,
        folder: OffloadFolder | None = None,
    ) -> None:
        self._tiers = tiers
        self._memory = memory
        self._block_size = block_size
        self._paced = paced
        self._folder = folder
        self._pace = StepPace()
        self._cost = TransferCost()
        # Grows whenever a block is given up.
        self._generations = array("Q", [0]) * num_blocks
        self._urgent: deque[Job] = deque()
        self._jobs: deque[Job] = deque(maxlen=_MOST_JOBS)
        # What the urgent job `_drop` is for; none waits where this is empty.
        self._to_drop: list[bytes] = []
        self._num_loading = 0
        self._finished: deque[BlockLoad] = deque()
        self.on_loaded: Callable[[BlockLoad], None] = self._finished.append
        self._wake = threading.Condition(threading.Lock())
        self._closing = False
        self._missed = 0
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="kv-offload", daemon=True)
        self._thread.start()

    # ---- by the step loop

    def keep(self, chain: BlockChain, numbers: Sequence[int], block_ids: Sequence[int], are_hits: bool) -> None:
        generations = [self._generations[block_id] for block_id in block_ids]
        self._submit(self._jobs, partial(self._keep, chain, numbers, block_ids, generations, are_hits))

    def drop(self, hashes: Sequence[bytes]) -> None:
        with self._wake:
            # Parts of one drop that come before the thread gets to them are one job: it looks through all copies.
            if hashes and not self._to_drop:
                self._urgent.append(self._drop)
            self._to_drop += hashes
            self._wake.notify()

    def clear(self) -> None:
        """No copy is found any more, on return."""
        done = threading.Event()
        self._submit(self._urgent, partial(self._clear, done))
        done.wait()

    def give_up(self, block_id: int) -> None:
        self._generations[block_id] += 1

    def holds(self, hash: bytes) -> bool:
        return any(tier.slots.find(hash) is not None for tier in self._tiers)

    def count_worth_loading(self, hashes: Sequence[bytes]) -> int:
        wanted: Counter[str] = Counter()
        for hash in hashes:
            tier = next((tier for tier in self._tiers if tier.slots.find(hash) is not None), None)
            if tier is None:
                break
            wanted[tier.name] += 1
        count = wanted.total()
        size = self._memory.block_bytes
        num_bytes = {name: blocks * size for name, blocks in wanted.items()}
        if not count or not self._cost.pays(num_bytes, self._num_loading * size, count * self._block_size):
            return 0
        return count

    def load(self, hashes: Sequence[bytes], block_ids: Sequence[int], share: float) -> BlockLoad:
        load = BlockLoad(hashes, block_ids, share)
        self._num_loading += len(hashes)
        self._submit(self._urgent, partial(self._load, load, self._memory.fence()))
        return load

    def finished(self) -> list[BlockLoad]:
        found = []
        while self._finished:
            load = self._finished.popleft()
            self._num_loading -= len(load.hashes)
            found.append(load)
        return found

    def step_begins(self) -> None:
        if self._paced:
            self._pace.step_begins()

    def step_ends(self) -> None:
        if self._paced:
            self._pace.step_ends()

    def note_computed(self, num_tokens: int, seconds: float) -> None:
        """Of one step that computed parts of prompts."""
        if num_tokens >= _FEWEST_TOKENS:
            self._cost.note_computed(num_tokens, seconds)

    def stats(self) -> list[TierStats]:
        return [
            TierStats(
                name=tier.name,
                blocks=len(tier.slots),
                bytes=len(tier.slots) * tier.block_bytes,
                capacity_bytes=tier.slots.capacity * tier.block_bytes,
                stored=tier.counts.stored,
                loaded=tier.counts.loaded,
                lost=tier.counts.lost,
                failed_writes=tier.counts.failed_writes,
                evictions=tier.slots.evictions,
                bytes_per_second=self._cost.bytes_per_second(tier.name),
            )
            for tier in self._tiers
        ]

    @property
    def block_bytes(self) -> int:
        return self._memory.block_bytes

    @property
    def missed(self) -> int:
        """Blocks that were given away before they were copied."""
        return self._missed

    def wait_until_kept(self, timeout: float) -> bool:
        """Sleeps until all that was asked for is done; False: it takes longer."""
        done = threading.Event()
        self._submit(self._jobs, done.set)
        return done.wait(timeout)

    def close(self) -> None:
        """What can still be copied in two seconds is. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._pace.end()
        with self._wake:
            self._wake.notify()
        self._thread.join(_CLOSING_SECONDS)
        if not self._thread.is_alive():
            for tier in self._tiers:
                tier.close()
            if self._folder is not None:
                self._folder.close()

    def _submit(self, jobs: deque[Job], job: Job) -> None:
        with self._wake:
            jobs.append(job)
            self._wake.notify()

    # ---- by the thread

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._urgent and not self._jobs:
                    if self._closing:
                        return
                    self._wake.wait()
                job = (self._urgent or self._jobs).popleft()
            try:
                job()
            except Exception:
                # Requests compute what they lack; a copy that cannot be made must not end those that can.
                _log.exception("Copying KV blocks failed")

    def _load(self, load: BlockLoad, fence: object) -> None:
        seconds: dict[str, float] = defaultdict(float)
        counts: Counter[str] = Counter()
        try:
            for hash, block_id in zip(load.hashes, load.block_ids, strict=True):
                began = time.perf_counter()
                tier = self._read(hash, load.share) if load.is_wanted else None
                if tier is None:
                    break
                self._memory.copy_in(block_id, fence, self._pace.ahead)
                load.num_loaded += 1
                seconds[tier.name] += time.perf_counter() - began
                counts[tier.name] += 1
        finally:
            for name, count in counts.items():
                self._cost.note_loaded(name, count * self._memory.block_bytes, seconds[name])
            self.on_loaded(load)

    def _read(self, hash: bytes, share: float) -> Tier | None:
        """The fastest tier that had the block's content, which is in the buffer then, and in all faster ones."""
        for number, tier in enumerate(self._tiers):
            slot = tier.slots.find(hash)
            if slot is None:
                continue
            block = tier.slots.block(slot)
            if tier.read(hash, self._memory.buffer, self._pace.ahead):
                for faster in self._tiers[:number]:
                    if faster.slots.find(hash) is None:
                        self._write(block, faster, share, self._pace.ahead)
                return tier
        return None

    def _keep(
        self,
        chain: BlockChain,
        numbers: Sequence[int],
        block_ids: Sequence[int],
        generations: Sequence[int],
        are_hits: bool,
    ) -> None:
        owner = blake2b(chain.owner.encode(), digest_size=OWNER_BYTES).digest()
        hashes = [chain.hash_of(number) for number in numbers]
        for number, hash, block_id, generation in zip(numbers, hashes, block_ids, generations, strict=True):
            missing = [tier for tier in self._tiers if tier.slots.find(hash) is None]
            if missing and self._copy_out(block_id, generation):
                parent = chain.parent_of(number)[:TAG_BYTES]
                block = KeptBlock(hash, owner, parent, number, uses=chain.uses)
                for tier in missing:
                    self._write(block, tier, chain.share, self._behind)
                self._behind()
        # The last part first: the beginnings of prompts are to stay longest.
        for start in reversed(range(0, len(hashes), _USED_AT_ONCE)):
            for tier in self._tiers:
                tier.use(hashes[start : start + _USED_AT_ONCE], counts=are_hits)
            self._behind()

    def _copy_out(self, block_id: int, generation: int) -> bool:
        """Whether the buffer holds what was published."""
        if self._generations[block_id] == generation:
            self._memory.copy_out(block_id, self._behind)
        is_whole = self._generations[block_id] == generation
        self._missed += not is_whole
        return is_whole

    def _write(self, block: KeptBlock, tier: Tier, share: float, pace: Pace) -> None:
        """What the buffer holds. share: the part of the tier that the block's owner may have."""
        limit = None if share >= 1 else int(tier.slots.capacity * share)
        tier.write(replace(block), self._memory.buffer, limit, pace)

    def _drop(self) -> None:
        with self._wake:
            hashes, self._to_drop = self._to_drop, []
        for tier in self._tiers:
            for hash in tier.slots.behind(hashes):
                tier.discard(hash)

    def _clear(self, done: threading.Event) -> None:
        try:
            # What waits to be copied would be found again.
            self._jobs.clear()
            for tier in self._tiers:
                for hash in tier.slots.hashes():
                    tier.discard(hash)
        finally:
            done.set()

    def _behind(self) -> None:
        """What waits for a load does not wait for this."""
        self._pace.behind(lambda: bool(self._urgent))
