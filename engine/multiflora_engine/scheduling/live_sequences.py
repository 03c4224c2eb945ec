"""All sequences that have not ended: who waits, who runs, and the blocks and slots of those that run.

Starts, grows, preempts and ends them. Who starts and which tokens are computed is the scheduler's to decide; who makes
room for whom, the block budget's.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.cache.trace_recorder import TraceRecorder
from multiflora_engine.core.sequence import Sequence, SequenceStatus
from multiflora_engine.protocol.requests import EngineFailure, TokenDelta
from multiflora_engine.scheduling.admission_policy import has_begun
from multiflora_engine.scheduling.block_budget import BlockBudget
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.counts import SchedulerCounts
from multiflora_engine.scheduling.document_moves import DocumentMoves
from multiflora_engine.scheduling.queue.waiting_queue import WaitingQueue
from multiflora_engine.scheduling.slot_scheduling import SlotScheduler
from multiflora_engine.scheduling.token_deltas import failure_delta

_ORDER = attrgetter("order")


class LiveSequences:
    """requests: by id, each with its sequences that have not ended. running: those that hold blocks, in the order in
    which they are served. ran_out: a sequence was preempted because no block was free, since the scheduler last set it
    to False. recorder: is told of those that end. clock: Unix seconds."""

    def __init__(
        self,
        config: SchedulerConfig,
        pool: BlockPool,
        cache: PrefixCache,
        budget: BlockBudget,
        slots: SlotScheduler,
        moves: DocumentMoves,
        recorder: TraceRecorder,
        counts: SchedulerCounts,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._pool = pool
        self._cache = cache
        self._budget = budget
        self._slots = slots
        self._moves = moves
        self._recorder = recorder
        self._counts = counts
        self._clock = clock
        self.requests: dict[str, list[Sequence]] = {}
        self.waiting = WaitingQueue(config.max_waiting)
        self.running: list[Sequence] = []
        self.ran_out = False

    def add(self, sequences: list[Sequence]) -> None:
        """A request's, which wait from now on."""
        self.requests[sequences[0].request_id] = sequences
        self.waiting.add(sequences, self.requests)

    def start(self, sequence: Sequence, hits: list[int]) -> None:
        """It has its slot already, and gets blocks for all its known tokens behind the hits."""
        # Referenced before anything is allocated: an allocation could evict them.
        self._pool.share(hits, sequence.cache_owner)
        count = self._config.blocks_for(sequence.num_tokens) - len(hits)
        sequence.block_table.extend(hits)
        sequence.block_table.extend(self._pool.allocate(count, sequence.cache_owner, self._budget.limit(sequence)))
        sequence.num_computed_tokens = sequence.num_scheduled_tokens = len(hits) * self._config.block_size
        sequence.status = SequenceStatus.RUNNING
        self.waiting.start(sequence)
        insort(self.running, sequence, key=_ORDER)
        self._cache.announce(sequence)
        if sequence.epoch == 0:
            self._record_start(sequence, len(hits))

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Gives it blocks for so many tokens, one by one; False if it had to be preempted itself."""
        while len(sequence.block_table) < self._config.blocks_for(num_tokens):
            while (victim := self._budget.victim_for(sequence, self.running)) is not None:
                self.ran_out = self.ran_out or not self._pool.num_free
                self.preempt(victim)
                if victim is sequence:
                    return False
            self._add_block(sequence)
        return True

    def grow_if_spare(self, sequence: Sequence, num_tokens: int) -> bool:
        """As `grow`, but no other sequence makes room, and each could still grow itself; False: that was not enough."""
        while len(sequence.block_table) < self._config.blocks_for(num_tokens):
            if not self._budget.is_spare(sequence, self.running):
                return False
            self._add_block(sequence)
        return True

    def preempt(self, sequence: Sequence) -> None:
        """It loses its blocks and its slot, and waits to start over; what it published stays cached."""
        self._stop_running(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_computed_tokens = sequence.num_scheduled_tokens = 0
        sequence.prompt_logprobs = sequence.pooled = None
        self.waiting.put_back(sequence)
        self._counts.preemptions += 1

    def end(self, sequence: Sequence) -> None:
        """Frees everything that it holds and forgets it."""
        if sequence.status is SequenceStatus.RUNNING:
            self._recorder.note(sequence)
            self._stop_running(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        siblings = self.requests[sequence.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self.requests[sequence.request_id]

    def fail(self, request_id: str, failure: EngineFailure) -> list[TokenDelta]:
        """Ends all sequences of a request, each with a last delta that says why."""
        deltas = []
        for sequence in list(self.requests.get(request_id, ())):
            self.end(sequence)
            deltas.append(failure_delta(sequence, failure))
        return deltas

    def expire(self) -> list[TokenDelta]:
        """Fails the requests whose deadlines have passed."""
        deltas: list[TokenDelta] = []
        for serial, request_id in self.waiting.deadlines.passed(self._clock()):
            live = self.requests.get(request_id)
            # Serial numbers tell a request from an earlier one of the same id, whose deadline this may be.
            if live and live[0].serial < serial:
                waits = not has_begun(live) and any(sequence.load_since for sequence in live)
                reason = "the request's deadline passed" + " while it waited for its adapter" * waits
                deltas += self.fail(request_id, EngineFailure("deadline_exceeded", reason))
        return deltas

    def pending_prefill(self) -> int:
        """Tokens of prompts that are not scheduled yet. Of a request's sequences the first one computes what the others
        find in the cache."""
        remaining = (
            len(sequence.token_ids) - sequence.num_scheduled_tokens
            for sequences in self.requests.values()
            for sequence in sequences[:1]
        )
        return sum(tokens for tokens in remaining if tokens > 1)

    def _record_start(self, sequence: Sequence, num_hits: int) -> None:
        now = self._clock()
        sequence.queued_seconds = max(0.0, now - sequence.queued_at)
        sequence.load_seconds = max(0.0, now - sequence.load_since) if sequence.load_since else 0.0
        sequence.cached_tokens = sequence.num_computed_tokens
        sequence.miss_reason, sequence.block_uses, num_evicted = self._cache.record_start(sequence, num_hits)
        sequence.evicted_tokens = num_evicted * self._config.block_size
        self._counts.cache_queries += sequence.num_prompt_tokens
        self._counts.cache_hits += sequence.num_computed_tokens

    def _add_block(self, sequence: Sequence) -> None:
        sequence.block_table.extend(self._pool.allocate(1, sequence.cache_owner, self._budget.limit(sequence)))

    def _stop_running(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        # Before the blocks are released: sequences that wait for its prefix must compute it themselves.
        self._cache.retract(sequence)
        self._moves.drop(sequence)
        self._pool.release(sequence.block_table)
        self._slots.release(sequence)
        sequence.block_table = array("i")
        sequence.epoch += 1
