"""Takes in what a step computed and sampled: publishes whole blocks, extends sequences, ends those that are over.

Returns deltas, as messages; schedules nothing.
"""

from __future__ import annotations

from multiflora_engine.cache.prefix_cache import PrefixCache
from multiflora_engine.core.sequence import Sequence, SequenceStatus
from multiflora_engine.core.step import SampledToken, Scheduled, ScheduledBatch, StepOutput
from multiflora_engine.protocol.requests import TokenDelta
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.counts import SchedulerCounts
from multiflora_engine.scheduling.document_moves import DocumentMoves
from multiflora_engine.scheduling.live_sequences import LiveSequences
from multiflora_engine.scheduling.speculation import Speculation
from multiflora_engine.scheduling.token_deltas import embedding_delta, token_delta


class StepOutcomes:
    """speculation: None where nothing is speculated."""

    def __init__(
        self,
        config: SchedulerConfig,
        live: LiveSequences,
        cache: PrefixCache,
        moves: DocumentMoves,
        speculation: Speculation | None,
        counts: SchedulerCounts,
    ) -> None:
        self._config = config
        self._live = live
        self._cache = cache
        self._moves = moves
        self._speculation = speculation
        self._counts = counts

    def take_in(self, batch: ScheduledBatch, outputs: list[StepOutput]) -> list[TokenDelta]:
        """Sequences that were aborted or preempted since they were scheduled are passed over."""
        deltas = []
        for entry, output in zip(batch.entries, outputs, strict=True):
            # Otherwise aborted or preempted meanwhile: its blocks may belong to another sequence by now.
            if entry.is_live:
                deltas += self._take_in_entry(entry, output)
        return deltas

    def _take_in_entry(self, entry: Scheduled, output: StepOutput) -> list[TokenDelta]:
        sequence = entry.sequence
        if output.sampled and (failure := output.sampled[-1].failure) is not None:
            # Before anything is published: what led to unusable logits must not be found in the prefix cache.
            return self._live.fail(sequence.request_id, failure)
        if entry.move is not None:
            self._moves.settle(sequence, entry.move)
            self._counts.add_hits(sequence, entry.move.stop - entry.move.start)
        self._note_computed(sequence, entry.num_known)
        if output.prompt_logprobs is not None and sequence.needs_prompt_logprobs:
            sequence.prompt_logprobs = (sequence.prompt_logprobs or [None]) + output.prompt_logprobs
        if sequence.pooling is not None:
            return self._pool(sequence, output)
        assert bool(output.sampled) == entry.samples, "the runner samples where entry.samples says so"
        appended = self._append_all(entry, output.sampled)
        if entry.drafts:
            assert self._speculation is not None, "it made the draft"
            num_accepted = len(output.sampled) - 1
            appended[-1] = self._speculation.with_predicted(entry, appended[-1], min(num_accepted, len(appended)))
            self._speculation.settle(entry, num_accepted)
        return appended

    def _note_computed(self, sequence: Sequence, end: int) -> None:
        first, stop = sequence.num_computed_tokens // self._config.block_size, end // self._config.block_size
        sequence.num_computed_tokens = end
        if stop > first:
            # Output fills blocks, too: the next turn of a conversation finds the answer of this one.
            sequence.block_hashes += self._cache.new_hashes(sequence)
            published = self._cache.publish(sequence, first, stop)
            num_whole = sequence.num_prompt_tokens // self._config.block_size
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

    def _append(self, sequence: Sequence, sampled: SampledToken) -> TokenDelta:
        """The sequence's next delta; ends the sequence when a finish condition holds."""
        is_first = not sequence.output_token_ids
        wants_output = sequence.params.max_tokens != 0
        if is_first and sequence.index == 0:
            self._counts.prompt_tokens += sequence.num_prompt_tokens
        if wants_output:
            sequence.append_token(sampled.token_id)
            self._counts.generation_tokens += 1
        delta = token_delta(sequence, sampled if wants_output else None, self._config, is_first=is_first)
        if delta.finish_reason is not None:
            self._counts.sequence_preemptions.observe(sequence.epoch)
            self._live.end(sequence)
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
        self._live.end(sequence)
        return [embedding_delta(sequence, self._config)]
