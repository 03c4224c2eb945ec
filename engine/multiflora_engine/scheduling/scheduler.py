"""Decides, step by step, which tokens of which sequences are computed, and turns what was sampled into deltas.

Owns the queue, the running set, the block pool and every Sequence. Knows nothing of devices, models, text, transport.
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
from array import array
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import attrgetter

from msgspec.structs import replace

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.cache.cache_index import CacheIndex
from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.adapter_source import AdapterSource
from multiflora_engine.core.block_tiers import BlockTiers
from multiflora_engine.core.draft_source import DraftSource
from multiflora_engine.core.grammar_source import GrammarSource
from multiflora_engine.core.moved_spans import moved_spans
from multiflora_engine.core.sequence import (
    Sequence,
    SequenceStatus,
    make_sequences,
    owner_of,
)
from multiflora_engine.core.step import (
    SampledToken,
    Scheduled,
    ScheduledBatch,
    StepOutput,
)
from multiflora_engine.protocol.histograms import PREEMPTIONS, Histogram
from multiflora_engine.protocol.messages import EngineStats
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.scheduling.admission_policy import (
    AdmissionPolicy,
    Blocked,
    CannotStart,
    has_begun,
)
from multiflora_engine.scheduling.block_budget import BlockBudget
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.document_moves import DocumentMoves, room_before
from multiflora_engine.scheduling.late_hits import LateHits
from multiflora_engine.scheduling.prefix_loads import PrefixLoads
from multiflora_engine.scheduling.seats import Flow, beside_a_flood, flow_of, leaves_for
from multiflora_engine.scheduling.slot_scheduling import SlotScheduler
from multiflora_engine.scheduling.token_deltas import embedding_delta, failure_delta, token_delta
from multiflora_engine.scheduling.waiting_queue import WaitingQueue

_ORDER = attrgetter("order")


@dataclass(slots=True)
class _Counts:
    """Sums since the start; they only grow."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    # Prompt tokens looked up and found, in tokens, in a sequence's first run only: what it computes again after a
    # preemption says nothing about the cache.
    cache_queries: int = 0
    cache_hits: int = 0
    preemptions: int = 0
    # Speculation: drafts that were verified, their tokens, and those of them that the model chose as well.
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    # Of each sequence that has ended: how often it was preempted.
    sequence_preemptions: Histogram = field(default_factory=lambda: Histogram(PREEMPTIONS))


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
        self._drafts = drafts
        self.runs_ahead = runs_ahead
        index = CacheIndex(config.num_blocks, config.block_size, clock)
        self.pool = BlockPool(config.num_blocks, on_evict=_telling(index, tiers))
        self._budget = BlockBudget(self.pool, config)
        self.cache_admin = CacheAdmin(self.pool, index, clock, tiers=tiers)
        self._clock = clock
        self._grammars = grammars
        self._cache = PrefixCache(self.pool, index, base_digest, config.block_size, config.enable_prefix_caching, tiers)
        self._loads = None if tiers is None else PrefixLoads(tiers, self.pool, self._cache, self._budget, clock)
        self._late_hits = LateHits(self.pool, self._cache, config.block_size)
        self._document_moves = DocumentMoves(self.pool, self._cache, config.block_size)
        self._adapters = adapters
        self._slots = SlotScheduler(adapters, config.slot_patience, config.num_prefetched)
        self._admission = AdmissionPolicy(config, self._cache, self._budget, self._slots, grammars, clock, self._loads)
        self._requests: dict[str, list[Sequence]] = {}
        self._waiting = WaitingQueue(config.max_waiting)
        self._running: list[Sequence] = []
        self._step = 0
        self._is_scarce = False
        self._counts = _Counts()
        self._num_deferred = 0

    @property
    def has_work(self) -> bool:
        return bool(self._requests) or (self._loads is not None and self._loads.is_busy)

    def add(self, request: GenerateRequest) -> None:
        """Queues the request's sequences. Raises QueueFull, RequestTooLong, or ValueError for an id that is in use."""
        if request.id in self._requests:
            raise ValueError(f"request {request.id} exists already")
        self.config.check(request)
        if request.grammar is not None and self._grammars is None:
            raise ValueError("this model's tokenizer cannot be used with grammars, so it has no structured output")
        self._waiting.check_capacity(owner_of(request))
        sequences = make_sequences(request, self._waiting.next_serial, self._clock())
        # A client that predicts the answer wants that used.
        wanted = True if request.speculation is None and request.prediction_token_ids else request.speculation
        is_drafted = self._drafts is not None and self._drafts.wants(wanted)
        moved = moved_spans(request, self.config.block_size)
        for sequence in sequences:
            sequence.moved_spans = moved
            sequence.is_drafted = is_drafted
            if self._grammars is not None and sequence.grammar is not None:
                self._grammars.begin(sequence)
        self._requests[request.id] = sequences
        self._waiting.add(sequences, self._requests)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ends the request, or one of its sequences, at once and without a delta; unknown ids may just have finished
        and are ignored."""
        for sequence in list(self._requests.get(request_id, ())):
            if index is None or sequence.index == index:
                self._end(sequence)

    def give_back(self, request_id: str) -> bool:
        """Forgets a request of which nothing runs or ran; False: it goes on, or is not known."""
        sequences = self._requests.get(request_id)
        if not sequences or has_begun(sequences):
            return False
        self.abort(request_id)
        return True

    def schedule(self) -> ScheduledBatch:
        """The next step's batch; the caller executes it and passes it to `commit` or to `fail`."""
        self._step += 1
        if self._loads is not None:
            self._loads.take_in()
        failures = self._expire() if self._clock() >= self._waiting.deadlines.earliest else []
        if self._waiting.length or self._slots.refusals or self._adapters.pending_placements():
            self._slots.begin_step(self._running)
        if self._waiting.length and len(self._running) >= self.config.max_num_seqs:
            self._seat_the_unserved(failures)
        entries: list[Scheduled] = []
        self._is_scarce = False
        few = self._beside_a_flood()
        budget = self._schedule_running(entries, few)
        if few and not entries:
            few = frozenset()
            budget = self._schedule_running(entries, few)
        # When the pool ran out just now, what is free is for the running sequences' next blocks.
        if self._waiting.length and not self._is_scarce and not few:
            self._start_waiting(entries, budget, failures)
        if failures:
            # A request that failed while waiting took its running sequences with it, perhaps out of this very batch.
            entries = [entry for entry in entries if entry.is_live]
        return ScheduledBatch(entries, failures)

    def commit(self, batch: ScheduledBatch, outputs: list[StepOutput]) -> list[TokenDelta]:
        """Takes in one executed step. Sequences that were aborted or preempted since are passed over."""
        deltas = []
        for entry, output in zip(batch.entries, outputs, strict=True):
            sequence = entry.sequence
            if not entry.is_live:
                continue  # aborted or preempted meanwhile: its blocks may belong to another sequence by now
            if output.sampled and (failure := output.sampled[-1].failure) is not None:
                # Before anything is published: what led to unusable logits must not be found in the prefix cache.
                deltas += self._fail_request(sequence.request_id, failure)
                continue
            if entry.move is not None:
                self._document_moves.settle(sequence, entry.move)
                self._count_hits(sequence, entry.move.stop - entry.move.start)
            self._note_computed(sequence, entry.num_known)
            if output.prompt_logprobs is not None and sequence.needs_prompt_logprobs:
                sequence.prompt_logprobs = (sequence.prompt_logprobs or [None]) + output.prompt_logprobs
            if sequence.pooling is not None:
                deltas += self._pool(sequence, output)
            assert bool(output.sampled) == entry.samples, "the runner samples where entry.samples says so"
            appended = self._append_all(entry, output.sampled)
            if entry.drafts:
                appended[-1] = self._with_predicted(entry, appended[-1], min(len(output.sampled) - 1, len(appended)))
                self._settle(entry, len(output.sampled) - 1)
            deltas += appended
        return deltas

    def fail(self, batch: ScheduledBatch, failure: EngineFailure) -> list[TokenDelta]:
        """Ends every request that has a sequence in a batch which could not be executed."""
        deltas = []
        for request_id in {entry.sequence.request_id: None for entry in batch.entries}:
            deltas += self._fail_request(request_id, failure)
        return deltas

    def withdraw(self, batch: ScheduledBatch) -> None:
        """The batch was not executed and no request is to blame: its sequences are scheduled again.

        Of several batches in flight the last one is withdrawn first.
        """
        for entry in batch.entries:
            if entry.is_live:
                entry.sequence.num_scheduled_tokens = entry.first
                if entry.move is not None:
                    self._document_moves.settle(entry.sequence, entry.move)

    def stats(self) -> EngineStats:
        """Everything that the scheduler knows; the engine adds steps, time and adapters."""
        return EngineStats(
            running=len(self._running),
            waiting=self._waiting.length,
            deferred=min(self._num_deferred, self._waiting.length),
            num_blocks=self.pool.num_blocks,
            free_blocks=self.pool.num_free,
            cached_blocks=self.pool.num_published,
            pending_prefill_tokens=self._pending_prefill(),
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

    def _pending_prefill(self) -> int:
        """Of a request's sequences the first one computes what the others find in the cache."""
        remaining = (
            len(sequence.token_ids) - sequence.num_scheduled_tokens
            for sequences in self._requests.values()
            for sequence in sequences[:1]
        )
        return sum(tokens for tokens in remaining if tokens > 1)

    def _beside_a_flood(self) -> frozenset[Flow]:
        """Those whose own step this is; none: it is everybody's."""
        is_theirs = self.config.is_compute_bound and self._waiting.length and self._step % 3
        return beside_a_flood(self._running) if is_theirs else frozenset()

    def _schedule_running(self, entries: list[Scheduled], only: frozenset[Flow]) -> int:
        """Schedules what runs already and returns the budget that is left. only: these flows; none: all."""
        budget, block_size = self.config.max_num_batched_tokens, self.config.block_size
        # Decodes first: one token each, and clients see the gap between two of them. Prefills share what is left.
        prefilling = []
        # What drafts may take: every running sequence comes to its one token first.
        spare = budget - len(self._running)
        decodes = -(-len(self._running) // self.config.num_batches)
        # Preemption pops the list's tail while we walk it: perhaps the sequence in hand, never one that we passed.
        for sequence in self._running:
            if only and flow_of(sequence) not in only:
                continue
            if sequence.in_flight and not self._goes_on(sequence):
                continue  # its next token depends on what the step in flight samples
            start = sequence.num_scheduled_tokens
            end = max(start + 1, len(sequence.token_ids))
            is_decode = end - start == 1
            if is_decode and len(entries) == decodes:
                continue
            if end > len(sequence.block_table) * block_size and not self._grow(sequence, end):
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
        self._count_hits(sequence, found or 0)
        return found is not None

    def _count_hits(self, sequence: Sequence, num_tokens: int) -> None:
        """Of a sequence's first run: tokens that it need not compute."""
        if sequence.epoch == 0:
            sequence.cached_tokens += num_tokens
            self._counts.cache_hits += num_tokens

    def note_step(self, batch: ScheduledBatch, seconds: float) -> None:
        """What the step took of the processor: drafts are weighed by it, where any may be made and the step read no
        prompt."""
        entries = batch.entries
        if self._drafts is None or not any(entry.sequence.is_drafted for entry in entries):
            return
        if not batch.reads_prompts:
            self._drafts.observe(len(entries), batch.num_tokens, seconds)

    def _draft(self, sequence: Sequence, limit: int) -> list[int]:
        """Tokens to be verified behind the sequence's last one; no other sequence makes room for them."""
        assert self._drafts is not None, "the caller knows"
        num_output, max_tokens = len(sequence.output_token_ids), sequence.params.max_tokens
        if not num_output or sequence.num_pending_tokens:
            return []
        # The model adds a token of its own to those that it confirms.
        limit = min(limit, self.config.max_model_len - sequence.num_tokens - 1)
        if max_tokens is not None:
            limit = min(limit, max_tokens - num_output - 1)
        if limit < 1:
            return []
        drafts = self._drafts.draft(sequence, limit, len(self._running))
        end = sequence.num_tokens + len(drafts)
        while len(sequence.block_table) < self.config.blocks_for(end):
            if not self._budget.is_spare(sequence, self._running):
                return drafts[: len(sequence.block_table) * self.config.block_size - sequence.num_tokens]
            self._add_block(sequence)
        return drafts

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
        move = self._document_moves.take(sequence, start) if sequence.moved_spans else None
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
        sequence = self._waiting.first_besides(set(map(flow_of, self._running)))
        leaving = None if sequence is None else leaves_for(sequence, self._running)
        if sequence is None or leaving is None:
            return
        try:
            found = self._admission.admit(sequence, self._requests[sequence.request_id], self._running, self._step)
        except CannotStart as error:
            failures += self._fail_request(sequence.request_id, error.failure)
            return
        if not isinstance(found, Blocked):
            self._start(sequence, found)
            self._preempt(leaving)

    def _start_waiting(self, entries: list[Scheduled], budget: int, failures: list[TokenDelta]) -> None:
        """Starts waiting sequences in order, each that the admission policy lets through."""
        full: set[str] = set()
        self._num_deferred = 0
        in_order = iter(self._waiting)
        first = list(islice(in_order, self.config.num_prefetched))
        self._slots.prefetch(first)
        for sequence in chain(first, in_order):
            if not budget or len(self._running) >= self.config.max_num_seqs:
                break
            # A request that failed a moment ago took its other sequences with it.
            if sequence.status is not SequenceStatus.WAITING or sequence.cache_owner in full:
                continue
            try:
                found = self._admission.admit(sequence, self._requests[sequence.request_id], self._running, self._step)
            except CannotStart as error:
                failures += self._fail_request(sequence.request_id, error.failure)
                continue
            if found is Blocked.CAPACITY:
                break
            if found is Blocked.QUOTA:
                full.add(sequence.cache_owner)
            elif found is Blocked.DEPENDENCY:
                self._num_deferred += 1
            else:
                self._start(sequence, found)
                budget -= self._schedule_chunk(sequence, budget, entries)

    def _start(self, sequence: Sequence, hits: list[int]) -> None:
        # Referenced before anything is allocated: an allocation could evict them.
        self.pool.share(hits, sequence.cache_owner)
        count = self.config.blocks_for(sequence.num_tokens) - len(hits)
        sequence.block_table.extend(hits)
        sequence.block_table.extend(self.pool.allocate(count, sequence.cache_owner, self._budget.limit(sequence)))
        sequence.num_computed_tokens = sequence.num_scheduled_tokens = len(hits) * self.config.block_size
        sequence.status = SequenceStatus.RUNNING
        self._waiting.start(sequence)
        insort(self._running, sequence, key=_ORDER)
        self._cache.announce(sequence)
        if sequence.epoch == 0:
            sequence.queued_seconds = max(0.0, self._clock() - sequence.queued_at)
            sequence.cached_tokens = sequence.num_computed_tokens
            sequence.load_seconds = max(0.0, self._clock() - sequence.load_since) if sequence.load_since else 0.0
            sequence.miss_reason, sequence.block_uses, num_evicted = self._cache.record_start(sequence, len(hits))
            sequence.evicted_tokens = num_evicted * self.config.block_size
            self._counts.cache_queries += sequence.num_prompt_tokens
            self._counts.cache_hits += sequence.num_computed_tokens

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Gives the sequence blocks for so many tokens, one by one; False if it had to be preempted itself."""
        while len(sequence.block_table) < self.config.blocks_for(num_tokens):
            while (victim := self._budget.victim_for(sequence, self._running)) is not None:
                self._is_scarce = self._is_scarce or not self.pool.num_free
                self._preempt(victim)
                if victim is sequence:
                    return False
            self._add_block(sequence)
        return True

    def _add_block(self, sequence: Sequence) -> None:
        sequence.block_table.extend(self.pool.allocate(1, sequence.cache_owner, self._budget.limit(sequence)))

    def _preempt(self, sequence: Sequence) -> None:
        self._stop_running(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_computed_tokens = sequence.num_scheduled_tokens = 0
        sequence.prompt_logprobs = sequence.pooled = None
        self._waiting.put_back(sequence)
        self._counts.preemptions += 1

    def _stop_running(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        # Before the blocks are released: sequences that wait for its prefix must compute it themselves.
        self._cache.retract(sequence)
        self._document_moves.drop(sequence)
        self.pool.release(sequence.block_table)
        self._slots.release(sequence)
        sequence.block_table = array("i")
        sequence.epoch += 1

    def _note_computed(self, sequence: Sequence, end: int) -> None:
        first, stop = sequence.num_computed_tokens // self.config.block_size, end // self.config.block_size
        sequence.num_computed_tokens = end
        if stop > first:
            # Output fills blocks, too: the next turn of a conversation finds the answer of this one.
            sequence.block_hashes += self._cache.new_hashes(sequence)
            published = self._cache.publish(sequence, first, stop)
            num_whole = sequence.num_prompt_tokens // self.config.block_size
            sequence.written_blocks.update(number for number in published if number < num_whole)

    def _append_all(self, entry: Scheduled, sampled: list[SampledToken]) -> list[TokenDelta]:
        """A delta for each token, as far as the sequence goes on."""
        sequence, deltas = entry.sequence, list[TokenDelta]()
        for token in sampled:
            if deltas and entry.drafts:
                # The token before was a draft: its KV is computed already.
                self._note_computed(sequence, sequence.num_tokens)
            deltas.append(self._append(sequence, token))
            if sequence.status is SequenceStatus.FINISHED:
                break  # what was sampled behind its end is nothing of its answer
        return deltas

    def _with_predicted(self, entry: Scheduled, last: TokenDelta, num_in_answer: int) -> TokenDelta:
        """The step's last delta, with what became of a draft from the request's prediction."""
        assert self._drafts is not None, "it made the draft"
        if not self._drafts.is_predicted(entry.sequence):
            return last
        rejected = len(entry.drafts) - num_in_answer
        return replace(last, accepted_prediction_tokens=num_in_answer, rejected_prediction_tokens=rejected)

    def _settle(self, entry: Scheduled, num_accepted: int) -> None:
        """Counts a verified draft; what was computed for tokens that were not accepted will be written again."""
        assert self._drafts is not None, "it made the draft"
        self._counts.drafts += 1
        self._counts.draft_tokens += len(entry.drafts)
        self._counts.accepted_tokens += num_accepted
        self._drafts.learn(entry.sequence, len(entry.drafts), num_accepted)
        if entry.is_live:
            entry.sequence.num_scheduled_tokens = entry.sequence.num_computed_tokens

    def _append(self, sequence: Sequence, sampled: SampledToken) -> TokenDelta:
        """The sequence's next delta; ends the sequence when a finish condition holds."""
        is_first = not sequence.output_token_ids
        wants_output = sequence.params.max_tokens != 0
        if is_first and sequence.index == 0:
            self._counts.prompt_tokens += sequence.num_prompt_tokens
        if wants_output:
            sequence.append_token(sampled.token_id)
            self._counts.generation_tokens += 1
        delta = token_delta(sequence, sampled if wants_output else None, self.config, is_first=is_first)
        if delta.finish_reason is not None:
            self._counts.sequence_preemptions.observe(sequence.epoch)
            self._end(sequence)
        sequence.device_seconds = 0.0
        return delta

    def _pool(self, sequence: Sequence, output: StepOutput) -> list[TokenDelta]:
        """Adds the chunk's share; after the last chunk the sequence ends with the only delta that it has."""
        if output.pooled is not None:
            sequence.pooled = output.pooled if sequence.pooled is None else sequence.pooled + output.pooled
        if sequence.num_computed_tokens < sequence.num_tokens:
            return []
        assert sequence.pooled is not None, "the runner pools where the sequence asks for it"
        self._counts.prompt_tokens += sequence.num_prompt_tokens
        self._counts.sequence_preemptions.observe(sequence.epoch)
        self._end(sequence)
        return [embedding_delta(sequence, self.config)]

    def _end(self, sequence: Sequence) -> None:
        """Frees everything that the sequence holds and forgets it."""
        if sequence.status is SequenceStatus.RUNNING:
            self.cache_admin.recorder.note(sequence)
            self._stop_running(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        siblings = self._requests[sequence.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request_id]

    def _fail_request(self, request_id: str, failure: EngineFailure) -> list[TokenDelta]:
        """Ends all sequences of a request, each with a last delta that says why."""
        deltas = []
        for sequence in list(self._requests.get(request_id, ())):
            self._end(sequence)
            deltas.append(failure_delta(sequence, failure))
        return deltas

    def _expire(self) -> list[TokenDelta]:
        deltas: list[TokenDelta] = []
        for serial, request_id in self._waiting.deadlines.passed(self._clock()):
            live = self._requests.get(request_id)
            # Serial numbers tell a request from an earlier one of the same id, whose deadline this may be.
            if live and live[0].serial < serial:
                waits = not has_begun(live) and any(sequence.load_since for sequence in live)
                reason = "the request's deadline passed" + " while it waited for its adapter" * waits
                deltas += self._fail_request(request_id, EngineFailure("deadline_exceeded", reason))
        return deltas
