"""Decides, step by step, which tokens of which sequences are computed.

Owns the block pool and, by LiveSequences, every Sequence. Knows nothing of devices, models, text, transport; what is
made of a step's outputs is StepOutcomes'.
Iteration-level scheduling after Orca (Yu et al., OSDI 2022), paging and recomputation after vLLM (Kwon et al., SOSP
2023), chunked prefill in one token budget after Sarathi-Serve (Agrawal et al., OSDI 2024).

A step: running decodes first, then running prefills, then waiting sequences, each by priority, the turns of owners and
of their adapters, and arrival, until the token budget is spent. A sequence gets blocks for all its known tokens when it
starts, so that only decoding can run out of blocks; then the last in order is preempted: it loses its blocks (published
ones stay cached) and starts over. So does one of a flood that has all seats, for an adapter that has none.

`schedule` may be called again before the previous batch is committed. On a device that runs ahead, sequences of that
batch then go on with a token that only the device knows yet; elsewhere they are left out. Tokens computed behind a
sequence's end are dropped at its commit. Blocks that are freed meanwhile may be given away; that is sound on a device
that executes steps in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, islice

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.cache.cache_index import CacheIndex
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.adapter_source import AdapterSource
from multiflora_engine.core.block_tiers import BlockTiers
from multiflora_engine.core.draft_source import DraftSource
from multiflora_engine.core.grammar_source import GrammarSource
from multiflora_engine.core.moved_spans import moved_spans
from multiflora_engine.core.sequence import Sequence, SequenceStatus, make_sequences, owner_of
from multiflora_engine.core.step import Scheduled, ScheduledBatch, StepOutput
from multiflora_engine.protocol.messages import EngineStats
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.scheduling.admission_policy import AdmissionPolicy, Blocked, CannotStart, has_begun
from multiflora_engine.scheduling.block_budget import BlockBudget
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.counts import SchedulerCounts
from multiflora_engine.scheduling.document_moves import DocumentMoves, room_before
from multiflora_engine.scheduling.late_hits import LateHits
from multiflora_engine.scheduling.live_sequences import LiveSequences
from multiflora_engine.scheduling.prefix_loads import PrefixLoads
from multiflora_engine.scheduling.queue.seats import Flow, beside_a_flood, flow_of, leaves_for
from multiflora_engine.scheduling.slot_scheduling import SlotScheduler
from multiflora_engine.scheduling.speculation import Speculation
from multiflora_engine.scheduling.step_outcomes import StepOutcomes


def _telling(index: CacheIndex, tiers: BlockTiers | None) -> Callable[[int, bytes], None]:
    """What is to be done before a block is given away."""
    if tiers is None:
        return index.on_evict

    def on_evict(block_id: int, hash: bytes) -> None:
        tiers.give_up(block_id)
        index.on_evict(block_id, hash)

    return on_evict


class Scheduler:
    """One engine's scheduler; not thread-safe. clock: Unix seconds, for deadlines.

    runs_ahead: whether the device chooses a sequence's next token where it alone knows the one before.
    grammars: None refuses requests that have one. drafts: None where nothing is speculated. tiers: None where no
    copies of blocks are kept.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        adapters: AdapterSource,
        base_digest: str,
        clock: Callable[[], float] = time.time,
        runs_ahead: bool = False,
        grammars: GrammarSource | None = None,
        drafts: DraftSource | None = None,
        tiers: BlockTiers | None = None,
    ) -> None:
        self.config = config
        self.runs_ahead = runs_ahead
        self._adapters = adapters
        self._grammars = grammars
        self._clock = clock
        self._step = 0
        self._num_deferred = 0
        self._counts = counts = SchedulerCounts()
        index = CacheIndex(config.num_blocks, config.block_size, clock)
        self.pool = pool = BlockPool(config.num_blocks, on_evict=_telling(index, tiers))
        self.cache_admin = CacheAdmin(pool, index, clock, tiers=tiers)
        self._cache = cache = PrefixCache(
            pool, index, base_digest, config.block_size, config.enable_prefix_caching, tiers
        )
        budget = BlockBudget(pool, config)
        self._loads = None if tiers is None else PrefixLoads(tiers, pool, cache, budget, clock)
        self._late_hits = LateHits(pool, cache, config.block_size)
        self._moves = moves = DocumentMoves(pool, cache, config.block_size)
        self._slots = slots = SlotScheduler(adapters, config.slot_patience, config.num_prefetched)
        self._admission = AdmissionPolicy(config, cache, budget, slots, grammars, clock, self._loads)
        recorder = self.cache_admin.recorder
        self._live = live = LiveSequences(config, pool, cache, budget, slots, moves, recorder, counts, clock)
        self._speculation = None if drafts is None else Speculation(config, live, drafts, counts)
        self._outcomes = StepOutcomes(config, live, cache, moves, self._speculation, counts)

    @property
    def has_work(self) -> bool:
        return bool(self._live.requests) or (self._loads is not None and self._loads.is_busy)

    def add(self, request: GenerateRequest) -> None:
        """Queues the request's sequences. Raises QueueFull, RequestTooLong, or ValueError for an id that is in use."""
        if request.id in self._live.requests:
            raise ValueError(f"request {request.id} exists already")
        self.config.check(request)
        if request.grammar is not None and self._grammars is None:
            raise ValueError("this model's tokenizer cannot be used with grammars, so it has no structured output")
        self._live.waiting.check_capacity(owner_of(request))
        sequences = make_sequences(request, self._live.waiting.next_serial, self._clock())
        is_drafted = self._speculation is not None and self._speculation.wants(request)
        moved = moved_spans(request, self.config.block_size)
        for sequence in sequences:
            sequence.moved_spans = moved
            sequence.is_drafted = is_drafted
            if self._grammars is not None and sequence.grammar is not None:
                self._grammars.begin(sequence)
        self._live.add(sequences)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends the request, or one of its sequences, at once and without a delta; unknown ids may just have finished
        and are ignored."""
        for sequence in list(self._live.requests.get(request_id, ())):
            if index is None or sequence.index == index:
                self._live.end(sequence)

    def give_back(self, request_id: str) -> bool:
        """Forgets a request of which nothing runs or ran; False: it goes on, or is not known."""
        sequences = self._live.requests.get(request_id)
        if not sequences or has_begun(sequences):
            return False
        self.abort(request_id)
        return True

    def schedule(self) -> ScheduledBatch:
        """The next step's batch; the caller executes it and passes it to `commit` or to `fail`."""
        self._step += 1
        if self._loads is not None:
            self._loads.take_in()
        failures = self._live.expire() if self._clock() >= self._live.waiting.deadlines.earliest else []
        if self._live.waiting.length or self._slots.refusals or self._adapters.pending_placements():
            self._slots.begin_step(self._live.running)
        if self._live.waiting.length and len(self._live.running) >= self.config.max_num_seqs:
            self._seat_the_unserved(failures)
        entries: list[Scheduled] = []
        self._live.ran_out = False
        # Those whose own step this is; none: it is everybody's.
        few: frozenset[Flow] = frozenset()
        if self.config.is_compute_bound and self._live.waiting.length and self._step % 3:
            few = beside_a_flood(self._live.running)
        budget = self._schedule_running(entries, few)
        if few and not entries:
            few = frozenset()
            budget = self._schedule_running(entries, few)
        # When the pool ran out just now, what is free is for the running sequences' next blocks.
        if self._live.waiting.length and not self._live.ran_out and not few:
            self._start_waiting(entries, budget, failures)
        if failures:
            # A request that failed while waiting took its running sequences with it, perhaps out of this very batch.
            entries = [entry for entry in entries if entry.is_live]
        return ScheduledBatch(entries, failures)

    def commit(self, batch: ScheduledBatch, outputs: list[StepOutput]) -> list[TokenDelta]:
        """Takes in one executed step."""
        return self._outcomes.take_in(batch, outputs)

    def fail(self, batch: ScheduledBatch, failure: EngineFailure) -> list[TokenDelta]:
        """Ends every request that has a sequence in a batch which could not be executed."""
        deltas = []
        for request_id in {entry.sequence.request_id: None for entry in batch.entries}:
            deltas += self._live.fail(request_id, failure)
        return deltas

    def withdraw(self, batch: ScheduledBatch) -> None:
        """The batch was not executed and no request is to blame: its sequences are scheduled again.

        Of several batches in flight the last one is withdrawn first.
        """
        for entry in batch.entries:
            if entry.is_live:
                entry.sequence.num_scheduled_tokens = entry.first
                if entry.move is not None:
                    self._moves.settle(entry.sequence, entry.move)

    def stats(self) -> EngineStats:
        """Everything that the scheduler knows; the engine adds steps, time and adapters."""
        return EngineStats(
            running=len(self._live.running),
            waiting=self._live.waiting.length,
            deferred=min(self._num_deferred, self._live.waiting.length),
            num_blocks=self.pool.num_blocks,
            free_blocks=self.pool.num_free,
            cached_blocks=self.pool.num_published,
            pending_prefill_tokens=self._live.pending_prefill(),
            prompt_tokens=self._counts.prompt_tokens,
            generation_tokens=self._counts.generation_tokens,
            cache_queries=self._counts.cache_queries,
            cache_hits=self._counts.cache_hits,
            preemptions=self._counts.preemptions,
            evictions=self.pool.evictions,
            drafts=self._counts.drafts,
            draft_tokens=self._counts.draft_tokens,
            accepted_tokens=self._counts.accepted_tokens,
            sequence_preemptions=self._counts.sequence_preemptions.read(),
        )

    def note_step(self, batch: ScheduledBatch, seconds: float) -> None:
        """What the step took of the processor."""
        if self._speculation is not None:
            self._speculation.observe(batch, seconds)

    def _schedule_running(self, entries: list[Scheduled], only: frozenset[Flow]) -> int:
        """Schedules what runs already and returns the budget that is left. only: these flows; none: all."""
        budget, block_size = self.config.max_num_batched_tokens, self.config.block_size
        # Decodes first: one token each, and clients see the gap between two of them. Prefills share what is left.
        prefilling = []
        # What drafts may take: every running sequence comes to its one token first.
        spare = budget - len(self._live.running)
        decodes = -(-len(self._live.running) // self.config.num_batches)
        # Preemption pops the list's tail while we walk it: perhaps the sequence in hand, never one that we passed.
        for sequence in self._live.running:
            if only and flow_of(sequence) not in only:
                continue
            if sequence.in_flight and not self._goes_on(sequence):
                continue  # its next token depends on what the step in flight samples
            start = sequence.num_scheduled_tokens
            end = max(start + 1, len(sequence.token_ids))
            is_decode = end - start == 1
            if is_decode and len(entries) == decodes:
                continue
            if end > len(sequence.block_table) * block_size and not self._live.grow(sequence, end):
                continue
            if not is_decode:
                prefilling.append(sequence)
            else:
                drafts = self._draft(sequence, spare) if sequence.is_drafted and spare > 0 else []
                spare -= len(drafts)
                num_tokens = 1 + len(drafts)
                sequence.num_scheduled_tokens = start + num_tokens
                samples = sequence.pooling is None
                entries.append(Scheduled(sequence, start, num_tokens, samples, sequence.epoch, drafts))
                budget -= num_tokens
        for sequence in prefilling:
            if budget and self._attach_hits(sequence):
                budget -= self._schedule_chunk(sequence, budget, entries)
        return budget

    def _attach_hits(self, sequence: Sequence) -> bool:
        """Takes what others have published of it since its last chunk; whether it may have its next one now."""
        found = self._late_hits.attach(sequence)
        self._counts.add_hits(sequence, found or 0)
        return found is not None

    def _draft(self, sequence: Sequence, most: int) -> list[int]:
        assert self._speculation is not None, "without it no sequence is drafted"
        return self._speculation.draft(sequence, most)

    def _goes_on(self, sequence: Sequence) -> bool:
        """Whether a sequence in flight can be given its next tokens now: certainly wanted, and nothing to wait for."""
        if not self.runs_ahead:
            # The next part of a prompt depends on no choice.
            return sequence.num_scheduled_tokens < sequence.num_tokens
        pending, length = sequence.num_pending_tokens, sequence.num_tokens
        max_tokens = sequence.params.max_tokens
        ends = max_tokens is not None and len(sequence.output_token_ids) + pending >= max_tokens
        return not pending or not (ends or length + pending >= self.config.max_model_len)

    def _schedule_chunk(self, sequence: Sequence, budget: int, entries: list[Scheduled]) -> int:
        start = sequence.num_scheduled_tokens
        move = self._moves.take(sequence, start) if sequence.moved_spans else None
        if move is not None:
            start = move.stop
        remaining = sequence.num_tokens - start
        num_tokens = room_before(sequence, start, min(remaining, budget))
        if start < (sequence.first_adapted or 0) < start + num_tokens:
            # The tokens of an entry have the same weights: an activated LoRA's begin the next one.
            num_tokens = (sequence.first_adapted or 0) - start
        sequence.num_scheduled_tokens = start + num_tokens
        samples = num_tokens == remaining and sequence.pooling is None
        entries.append(Scheduled(sequence, start, num_tokens, samples, sequence.epoch, move=move))
        return num_tokens

    def _seat_the_unserved(self, failures: list[TokenDelta]) -> None:
        """All seats are taken: a sequence whose owner has nothing running of its adapter gets one of a flood's."""
        sequence = self._live.waiting.first_besides(set(map(flow_of, self._live.running)))
        leaving = None if sequence is None else leaves_for(sequence, self._live.running)
        if sequence is None or leaving is None:
            return
        found = self._admit(sequence, failures)
        if isinstance(found, list):
            self._live.start(sequence, found)
            self._live.preempt(leaving)

    def _start_waiting(self, entries: list[Scheduled], budget: int, failures: list[TokenDelta]) -> None:
        """Starts waiting sequences in order, each that the admission policy lets through."""
        full: set[str] = set()
        self._num_deferred = 0
        in_order = iter(self._live.waiting)
        first = list(islice(in_order, self.config.num_prefetched))
        self._slots.prefetch(first)
        for sequence in chain(first, in_order):
            if not budget or len(self._live.running) >= self.config.max_num_seqs:
                break
            # A request that failed a moment ago took its other sequences with it.
            if sequence.status is not SequenceStatus.WAITING or sequence.cache_owner in full:
                continue
            found = self._admit(sequence, failures)
            if found is Blocked.CAPACITY:
                break
            if found is Blocked.QUOTA:
                full.add(sequence.cache_owner)
            elif found is Blocked.DEPENDENCY:
                self._num_deferred += 1
            elif found is not None:
                self._live.start(sequence, found)
                budget -= self._schedule_chunk(sequence, budget, entries)

    def _admit(self, sequence: Sequence, failures: list[TokenDelta]) -> list[int] | Blocked | None:
        """As AdmissionPolicy.admit; None: the sequence can never start, and its request has failed."""
        live = self._live
        try:
            return self._admission.admit(sequence, live.requests[sequence.request_id], live.running, self._step)
        except CannotStart as error:
            failures += live.fail(sequence.request_id, error.failure)
            return None
