"""The two types that cross the engine's border: GenerateRequest in, TokenDelta out. Torch-free.

Knows nothing of names, tenants, text or HTTP: a request carries token ids and content digests only.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]
Pooling = Literal["last", "mean"]


class StructuredOutputsParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an answer must look like; field names and meaning are vLLM's. Exactly one of the first six is given.

    json: a JSON schema, as an object or as text. grammar: Lark or GBNF. structural_tag: see structured/formats.py.
    disable_any_whitespace: compact JSON. disable_additional_properties: close objects that leave that open.
    whitespace_pattern: a regular expression for the whitespace in JSON.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose tokens; field names and meaning are vLLM's. `verify` raises ValueError naming the field.

    structured_outputs: for front ends, which make the request's grammar of it; the engine reads that one.
    """

    n: int = 1
    best_of: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    detokenize: bool = True
    structured_outputs: StructuredOutputsParams | None = None

    @property
    def num_sequences(self) -> int:
        """Sequences the engine runs: `best_of` candidates, of which the front end returns the best `n`."""
        return self.best_of or self.n

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-5


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One admitted request. Everything that can be checked without the device was checked before it was made.

    The front end fills all of it, in engine_requests.py.
    """

    id: str
    # At least one id, all below the vocabulary's size.
    prompt_token_ids: list[int]
    # max_tokens is always set: the front end fills it in.
    params: SamplingParams
    # SHA-256 hex of the adapter version, or a mix of some (multiflora_adapters.mix); None: the base model.
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
    # Unix seconds; None: none.
    deadline: float | None = None
    # When the gateway received it, Unix seconds.
    arrival_time: float = 0.0
    # Its prompt's embedding is wanted, of the last token or the mean of all, and no text (max_tokens 0).
    pooling: Pooling | None = None
    # What every output must follow, as sampling/grammars.py reads it.
    grammar: str | None = None


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
    # Prompt tokens served from the prefix cache; with a sequence's first delta only, as are the next three.
    cached_tokens: int = 0
    # How long of queued_seconds it waited for its adapter.
    load_seconds: float = 0.0
    # Why the prefix cache had no more of the prompt (see CacheIndex).
    miss_reason: str = ""
    # How long it waited before it first ran.
    queued_seconds: float = 0.0
    # Its part of the time of the steps since its last delta, divided by tokens. The engine measures it.
    device_seconds: float = 0.0
    # With a sequence's last delta only.
    finish_reason: FinishReason | None = None
    # The stop token's id, where one of params.stop_token_ids ended it.
    stop_reason: int | None = None
    # Of a pooling request, with its only delta: float32 little-endian, not normalised.
    embedding: bytes | None = None
    # With finish_reason "error" only.
    failure: EngineFailure | None = None
