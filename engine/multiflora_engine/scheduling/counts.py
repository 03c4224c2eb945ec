"""What an engine's scheduling has come to since its start: sums that only grow."""

from __future__ import annotations

from dataclasses import dataclass, field

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.protocol.histograms import PREEMPTIONS, Histogram


@dataclass(slots=True)
class SchedulerCounts:
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

    def add_hits(self, sequence: Sequence, num_tokens: int) -> None:
        """Tokens that a sequence which runs already need not compute."""
        if sequence.epoch == 0:
            sequence.cached_tokens += num_tokens
            self.cache_hits += num_tokens
