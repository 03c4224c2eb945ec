"""What LLM.generate returns. Plain data, named as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_engine.protocol.requests import FinishReason, PositionLogprobs


@dataclass(frozen=True)
class CompletionOutput:
    """One continuation of a prompt."""

    index: int
    """0 <= index < n."""
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    """Over the whole continuation; None unless `logprobs` was asked for."""
    logprobs: list[PositionLogprobs] | None = None
    """One entry for each token; None unless `logprobs` was asked for."""
    finish_reason: FinishReason | None = None
    """None while it goes on."""
    stop_reason: str | int | None = None
    """The stop string or stop token id that ended it; None for end-of-sequence."""
    error: str | None = None
    """Why finish_reason is "error"."""


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
    cached_tokens: int = 0
    """Prompt tokens served from the prefix cache."""
    adapter: str | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None
