"""What LLM.generate returns. Plain data, named as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_engine.protocol.requests import FinishReason, PositionLogprobs


@dataclass(frozen=True)
class CompletionOutput:
    """One continuation. index: 0 <= index < n.

    cumulative_logprob, logprobs: when `logprobs` was asked for; one entry per token.
    stop_reason: the stop string or stop token id that ended it; None for end-of-sequence. error: why finish_reason is
    "error".
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None


@dataclass(frozen=True)
class RequestOutput:
    """A prompt and its continuations, in index order. prompt is None when token ids were given.

    With stream=True each output holds only what is new, of the continuations that have something new.
    cached_tokens: prompt tokens served from the prefix cache.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    cached_tokens: int = 0
    adapter: str | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None
