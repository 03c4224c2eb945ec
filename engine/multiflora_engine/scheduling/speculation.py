"""Drafts of running sequences: how long one may be, the blocks that it needs, and what became of it.

Proposes no tokens itself: the DraftSource does.
"""

from __future__ import annotations

from msgspec.structs import replace

from multiflora_engine.core.draft_source import DraftSource
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.core.step import Scheduled, ScheduledBatch
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.counts import SchedulerCounts
from multiflora_engine.scheduling.live_sequences import LiveSequences


class Speculation:
    def __init__(
        self, config: SchedulerConfig, live: LiveSequences, source: DraftSource, counts: SchedulerCounts
    ) -> None:
        self._config = config
        self._live = live
        self._source = source
        self._counts = counts

    def wants(self, request: GenerateRequest) -> bool:
        """Whether the request's sequences are drafted; a client that predicts the answer wants that used."""
        wanted = True if request.speculation is None and request.prediction_token_ids else request.speculation
        return self._source.wants(wanted)

    def draft(self, sequence: Sequence, limit: int) -> list[int]:
        """Tokens to be verified behind the sequence's last one; no other sequence makes room for them."""
        num_output, max_tokens = len(sequence.output_token_ids), sequence.params.max_tokens
        if not num_output or sequence.num_pending_tokens:
            return []
        # The model adds a token of its own to those that it confirms.
        limit = min(limit, self._config.max_model_len - sequence.num_tokens - 1)
        if max_tokens is not None:
            limit = min(limit, max_tokens - num_output - 1)
        if limit < 1:
            return []
        drafts = self._source.draft(sequence, limit, len(self._live.running))
        if self._live.grow_if_spare(sequence, sequence.num_tokens + len(drafts)):
            return drafts
        return drafts[: len(sequence.block_table) * self._config.block_size - sequence.num_tokens]

    def settle(self, entry: Scheduled, num_accepted: int) -> None:
        """Counts a verified draft; what was computed for tokens that were not accepted will be written again."""
        self._counts.drafts += 1
        self._counts.draft_tokens += len(entry.drafts)
        self._counts.accepted_tokens += num_accepted
        self._source.learn(entry.sequence, len(entry.drafts), num_accepted)
        if entry.is_live:
            entry.sequence.num_scheduled_tokens = entry.sequence.num_computed_tokens

    def with_predicted(self, entry: Scheduled, last: TokenDelta, num_in_answer: int) -> TokenDelta:
        """The step's last delta, with what became of a draft from the request's prediction."""
        if not self._source.is_predicted(entry.sequence):
            return last
        rejected = len(entry.drafts) - num_in_answer
        return replace(last, accepted_prediction_tokens=num_in_answer, rejected_prediction_tokens=rejected)

    def observe(self, batch: ScheduledBatch, seconds: float) -> None:
        """What a step took of the processor: drafts are weighed by it, where any may be made and it read no prompt."""
        drafted = [entry for entry in batch.entries if entry.sequence.is_drafted]
        if drafted and not batch.reads_prompts:
            self._source.observe(len(batch.entries), batch.num_tokens, seconds)
