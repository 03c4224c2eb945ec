"""The two types that cross the engine's border: GenerateRequest in, TokenDelta out. Torch-free.

Knows nothing of names, tenants, text or HTTP: a request carries token ids and content digests only.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from multiflora_engine.protocol.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]
Pooling = Literal["last", "mean"]


class DocumentSpan(msgspec.Struct, frozen=True, array_like=True):
    """Tokens [start, stop) of a prompt, which are a document that may stand in other prompts elsewhere. num_recomputed:
    of its first tokens, those that are computed where it stands in any case."""

    start: int
    stop: int
    num_recomputed: int


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One admitted request. Everything that can be checked without the device was checked before it was made.

    The front end fills all of it, in engine_requests.py.
    """

    id: str
    # At least one id, all below the vocabulary's size.
    prompt_token_ids: list[int]
    # max_tokens is always set: the front end fills it in.
    params: SamplingParams
    # The first of them, in which an activated LoRA's invocation is looked for; the rest is an answer that this request
    # goes on with (a beam's). 0: all.
    num_asked_tokens: int = 0
    # SHA-256 hex of the adapter version, or a mix of some (multiflora_adapters.mixes.recipe); None: the base model.
    adapter_digest: str | None = None
    # Opaque, derived from the tenant; two requests share KV blocks only when it is equal.
    cache_salt: str = ""
    # Opaque: its blocks count towards the share of this tenant, however many salts it uses; "": of the salt itself.
    cache_owner: str = ""
    # Of all KV blocks, what this owner may hold at the same time, above 0 and at most 1.
    cache_share: float = 1.0
    # Token sequences that must not be completed.
    bad_word_ids: list[list[int]] = []
    # Smaller runs first.
    priority: int = 0
    # No client waits for it (a line of a batch, a shadow, an eval, a warm-up): its blocks are the first to be evicted
    # until a request that a client waits for uses them, and it evicts little else (scheduling/block_budget.py).
    background: bool = False
    # Prompts to come begin like this, and it is computed for the cache alone: where it does not invoke its activated
    # LoRA, the base computes it, as it will be in those prompts.
    is_prefix: bool = False
    # Unix seconds; None: none.
    deadline: float | None = None
    # When the gateway received it, Unix seconds.
    arrival_time: float = 0.0
    # Its prompt's embedding is wanted, of the last token or the mean of all, and no text (max_tokens 0).
    pooling: Pooling | None = None
    # What every output must follow, as sampling/grammars.py reads it.
    grammar: str | None = None
    # Whether tokens are drafted by prompt lookup; None: as the engine is configured.
    speculation: bool | None = None
    # What the client thinks the answer will be, all ids below the vocabulary's size: drafts are looked up there, too,
    # whatever the configuration, unless speculation is False. None: it says nothing.
    prediction_token_ids: list[int] | None = None
    # Documents whose KV may be approximate: taken from where it was computed behind all that stands before the first of
    # them, and moved (core/moved_spans.py). In order, and apart.
    documents: list[DocumentSpan] = []

    @property
    def reads_whole_prompt(self) -> bool:
        """Whether something is wanted of every prompt position, so that cached blocks cannot stand in for any."""
        return self.params.prompt_logprobs is not None or self.pooling == "mean"


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of one token: softmax of the raw logits (vLLM's `raw_logprobs`); rank is 1-based."""

    token_id: int
    logprob: float
    rank: int


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The chosen (or prompt) token's own log-probability and the `logprobs` most likely alternatives, best first."""

    chosen: TokenLogprob
    top: list[TokenLogprob]


class EngineFailure(msgspec.Struct, frozen=True):
    """Why a request ended with finish_reason "error". Filled by the part that found the cause."""

    # Stable, e.g. "adapter_unavailable", "adapter_loading", "kv_cache_pinned", "deadline_exceeded", "engine_dead",
    # "server_overloaded", "internal_error".
    code: str
    # Names the cause, for people.
    message: str


class TokenDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step added to one sequence of a request. The scheduler fills it (token_deltas.py); a request that ends
    before it or after it (the queue is full, the engine died) gets one from the step loop or the client."""

    request_id: str
    # 0 <= index < params.num_sequences.
    index: int = 0
    token_ids: list[int] = []
    # One entry per token id, when asked for.
    logprobs: list[PositionLogprobs] | None = None
    # Sent once, with index 0's first delta; entry 0 is None (nothing precedes it).
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    # Prompt tokens served from the prefix cache; with a sequence's first delta only, as are the next five.
    cached_tokens: int = 0
    # Prompt tokens in the blocks that the request, all its sequences together, has added to the prefix cache.
    cache_write_tokens: int = 0
    # How long of queued_seconds it waited for its adapter.
    load_seconds: float = 0.0
    # Why the prefix cache had no more of the prompt (see CacheIndex).
    miss_reason: str = ""
    # Prompt tokens that were computed although they had been cached: they were evicted.
    evicted_tokens: int = 0
    # How long it waited before it first ran.
    queued_seconds: float = 0.0
    # Its part of the time of the steps since its last delta, divided by tokens. The engine measures it.
    device_seconds: float = 0.0
    # Of a first delta's device_seconds those of the prompt; None: all of them. Only the gateway's beam search fills it,
    # whose first delta comes after all its steps.
    prompt_device_seconds: float | None = None
    # Of the tokens that the step drafted from the request's prediction, those that are in the answer, and the others.
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    # With a sequence's last delta only.
    finish_reason: FinishReason | None = None
    # The stop token's id, where one of params.stop_token_ids ended it.
    stop_reason: int | None = None
    # Of a pooling request, with its only delta: float32 little-endian, not normalised.
    embedding: bytes | None = None
    # With finish_reason "error" only.
    failure: EngineFailure | None = None
