"""What LLM.generate returns. Plain data, named as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass

from multiflora.lora_request import LoRARequest
from multiflora.offline.pooling import (
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from multiflora_engine.protocol.requests import FinishReason

__all__ = [
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "Logprob",
    "PoolingOutput",
    "PoolingRequestOutput",
    "RequestMetrics",
    "RequestOutput",
    "ScoringOutput",
    "ScoringRequestOutput",
]


@dataclass(frozen=True)
class Logprob:
    """Of one token at one position: softmax of the raw logits."""

    logprob: float
    rank: int
    """1 is the likeliest."""
    decoded_token: str
    """Half a character is shown as U+FFFD."""


@dataclass(frozen=True)
class RequestMetrics:
    """When what happened, in Unix seconds; None: not yet."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None
    time_in_queue: float | None = None
    """Seconds from arrival until it first ran."""


@dataclass(frozen=True)
class CompletionOutput:
    """One continuation of a prompt."""

    index: int
    """0 <= index < n."""
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    """Over the whole continuation; None unless `logprobs` was asked for."""
    logprobs: list[dict[int, Logprob]] | None = None
    """For each token, by token id: the chosen one's and the likeliest ones'; None unless `logprobs` was asked for."""
    finish_reason: FinishReason | None = None
    """None while it goes on."""
    stop_reason: str | int | None = None
    """The stop string or stop token id that ended it; None for end-of-sequence."""
    error: str | None = None
    """Why finish_reason is "error"."""

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True)
class RequestOutput:
    """A prompt and its continuations, in index order.

    With stream=True each output holds only what is new, of the continuations that have something new.
    """

    request_id: str
    prompt: str | None
    """None when token ids were given."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int = 0
    """Prompt tokens served from the prefix cache."""
    adapter: str | None = None
    """Its name; None: the base model."""
    lora_request: LoRARequest | None = None
    """What the adapter was asked for with, if it was."""
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """For each prompt token; None for the first, which nothing precedes."""
    metrics: RequestMetrics | None = None
