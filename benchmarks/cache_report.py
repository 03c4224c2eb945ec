"""What a look at a large prefix cache costs the engine's step loop, and what a cached block costs in time and memory.

    python benchmarks/cache_report.py [BLOCKS ...]

Fills a pool with prompts of 64 blocks, of which eight begin with the same 16, from 8 tenants with 32 adapters. Parts
and publishing are in CPU time of the loop's thread. "added" is by the clock, less the time that the loop's thread
waited for a core (Linux tells it): how much longer the slowest turn of a busy loop was than one without a request. It
has what the thread beside it held of the interpreter's lock, and how long that thread waited for a core with it.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import time
from array import array
from dataclasses import dataclass

from multiflora_engine.cache.block_hashes import root_hash
from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.cache.cache_index import CacheIndex
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.process.main import SWITCH_SECONDS
from multiflora_engine.profiling.process_memory import own_resident_bytes
from multiflora_engine.protocol.messages import CacheReply, CacheRequest
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

SIZES = (131_072, 524_288, 1_048_576)
BLOCK_SIZE = 16
PROMPT_BLOCKS, SHARED_BLOCKS, PROMPTS_OF_A_FAMILY = 64, 16, 8
TENANTS, ADAPTERS = 8, 32
TURN_SECONDS = 0.002


@dataclass
class Asked:
    """What one request of an operator took. Seconds; held: of the loop's CPU time, the longest part."""

    reply: CacheReply
    seconds: float
    parts: int
    held: float
    added: float


class FilledCache:
    def __init__(self, num_blocks: int) -> None:
        self.index = CacheIndex(num_blocks, BLOCK_SIZE)
        self.pool = BlockPool(num_blocks, on_evict=self.index.on_evict)
        self.cache = PrefixCache(self.pool, self.index, "base", BLOCK_SIZE)
        self.admin = CacheAdmin(self.pool, self.index)
        self.publish_seconds = 0.0
        for number in itertools.count():
            if self.pool.num_published + PROMPT_BLOCKS + 1 > num_blocks:
                break
            self.run(number)

    def run(self, number: int) -> None:
        """One prompt, from its lookup to the release of its blocks."""
        sequence = self.sequence(number)
        hits = self.cache.hits(sequence)
        self.pool.share(hits, sequence.cache_owner)
        new = self.pool.allocate(PROMPT_BLOCKS + 1 - len(hits), sequence.cache_owner)
        sequence.block_table = array("i", [*hits, *new])
        self.cache.record_start(sequence, len(hits))
        began = time.thread_time()
        self.cache.publish(sequence, len(hits), PROMPT_BLOCKS)
        self.publish_seconds += time.thread_time() - began
        self.pool.release(sequence.block_table)

    def sequence(self, number: int) -> Sequence:
        family = number // PROMPTS_OF_A_FAMILY
        shared = [(family * 1009 + i) % 50_000 for i in range(SHARED_BLOCKS * BLOCK_SIZE)]
        own = [(number * 7919 + i) % 50_000 for i in range((PROMPT_BLOCKS - SHARED_BLOCKS) * BLOCK_SIZE)]
        digest, tenant = f"{family % ADAPTERS:064x}", f"tenant-{family % TENANTS}"
        request = GenerateRequest(
            id=str(number),
            prompt_token_ids=[*shared, *own, 1],
            params=SamplingParams(max_tokens=1),
            adapter_digest=digest,
            cache_salt=tenant,
            cache_owner=tenant,
        )
        (sequence,) = make_sequences(request, number)
        sequence.kv_digest, sequence.root_hash = digest, root_hash("base", digest, tenant)
        sequence.block_hashes = self.cache.new_hashes(sequence)
        return sequence

    def ask(self, action: str, hash: str = "") -> Asked:
        """Answered by a loop whose turns compute for TURN_SECONDS, as the host's part of a step does."""
        usual = statistics.median(self._turn()[1] for _ in range(50))
        self.admin.submit(CacheRequest(1, action, hash))
        replies: list[CacheReply] = []
        parts, held, slowest, began = 0, 0.0, 0.0, time.perf_counter()
        while not replies:
            replies, turn, part = self._turn()
            parts, held, slowest = parts + 1, max(held, part), max(slowest, turn)
        return Asked(replies[0], time.perf_counter() - began, parts, held, max(0.0, slowest - usual))

    def _turn(self) -> tuple[list[CacheReply], float, float]:
        began, computed = clock(), time.thread_time()
        while time.thread_time() - computed < TURN_SECONDS:
            pass
        computed = time.thread_time()
        replies = self.admin.advance()
        return replies, clock() - began, time.thread_time() - computed


def clock() -> float:
    """Seconds, without those in which this thread could have run and had no core."""
    with open("/proc/thread-self/schedstat", encoding="ascii") as schedstat:
        return time.perf_counter() - int(schedstat.read().split()[1]) / 1e9


def measure(num_blocks: int) -> None:
    gc.collect()
    before = own_resident_bytes()
    filled = FilledCache(num_blocks)
    gc.collect()
    published = filled.pool.num_published
    size = (own_resident_bytes() - before) / published
    print(f"{published:9,} blocks: publish {filled.publish_seconds / published * 1e6:.1f} us, {size:.0f} bytes a block")
    reports = [filled.ask("report") for _ in range(3)]
    run = reports[0].reply.nodes[0].hash
    asked_for = [("report", report) for report in reports]
    asked_for += [(action, filled.ask(action, run)) for action in ("tokens", "drop")]
    for name, asked in asked_for:
        print(
            f"          {name}: {asked.seconds:.2f} s in {asked.parts} parts, the longest {asked.held * 1e3:.2f} ms; "
            f"added {asked.added * 1e3:.1f} ms; {len(asked.reply.nodes)} nodes"
        )


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)
    for wanted in [int(argument) for argument in sys.argv[1:]] or SIZES:
        measure(wanted)
