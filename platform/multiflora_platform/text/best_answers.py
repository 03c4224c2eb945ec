"""Answers as they grow, and which of several candidates are the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from multiflora_engine.protocol.requests import FinishReason, PositionLogprobs
from multiflora_platform.text.assembler import TextDelta


@dataclass
class Answer:
    """What the deltas of one answer add up to: all of it, or what came since a reader last looked."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    # One for each token when the request asks for them; None otherwise.
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: FinishReason | None = None
    # The stop string or stop token id that ended it; None for the end of the sequence.
    stop_reason: str | int | None = None

    def add(self, delta: TextDelta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        if delta.logprobs is not None:
            self.logprobs = self.logprobs or []
            self.logprobs += delta.logprobs
        self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason

    @property
    def cumulative_logprob(self) -> float:
        return sum(position.chosen.logprob for position in self.logprobs or ())


def best_answers(candidates: Sequence[Answer], n: int) -> list[Answer]:
    """The n likeliest, best first and numbered anew; in their order when there are no more than n.

    Likeliest by cumulative log-probability, as vLLM's best_of chooses: a longer answer has no advantage over a
    shorter one that is likelier as a whole. The request must have asked for log-probabilities.
    """
    if len(candidates) <= n:
        return list(candidates)
    ranked = sorted(candidates, key=lambda answer: -answer.cumulative_logprob)
    return [replace(answer, index=index) for index, answer in enumerate(ranked[:n])]
