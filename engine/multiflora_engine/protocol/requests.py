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

    prompt_token_ids: at least one id, all < vocab size. `params.max_tokens` is always set (the front end fills it in).
    adapter_digest: SHA-256 hex of the adapter version, or a mix of some (multiflora_adapters.mix); None is the base.
    cache_salt: opaque, derived from the tenant; two requests share KV blocks only when it is equal.
    cache_owner: opaque, the tenant whose share of the cache its blocks count towards, however many salts it uses; empty
    is the salt itself. cache_share: of all KV blocks, what this owner may hold at the same time, above 0 and at most 1.
    bad_word_ids: token id sequences that must not be completed. priority: smaller runs first. deadline: Unix seconds.
    pooling: the request wants its prompt's embedding, of the last token or the mean of all, and no text (max_tokens 0).
    grammar: what every output must follow, as sampling/grammars.py reads it.
    """

    id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    adapter_digest: str | None = None
    cache_salt: str = ""
    cache_owner: str = ""
    cache_share: float = 1.0
    bad_word_ids: list[list[int]] = []
    priority: int = 0
    deadline: float | None = None
    arrival_time: float = 0.0
    pooling: Pooling | None = None
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
    """Why a request ended with finish_reason "error". code is stable, e.g. "adapter_unavailable", "adapter_loading",
    "kv_cache_pinned", "deadline_exceeded", "engine_dead", "server_overloaded", "internal_error"; message names the
    cause."""

    code: str
    message: str


class TokenDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step added to one sequence of a request.

    index: 0 <= index < params.num_sequences. logprobs: one entry per token id when asked for.
    prompt_logprobs: sent once, with index 0's first delta; entry 0 is None (nothing precedes it).
    cached_tokens: prompt tokens served from the prefix cache; queued_seconds: how long the sequence waited before it
    first ran, load_seconds: how long of that for its adapter; miss_reason: why the prefix cache had no more (see
    CacheIndex); all with a sequence's first delta. device_seconds: its part of the time of the steps since its last
    delta, divided by tokens. stop_reason: the stop token id that ended it, or None.
    embedding: of a pooling request, float32 little-endian, not normalised; it comes with the only delta.
    """

    request_id: str
    index: int = 0
    token_ids: list[int] = []
    logprobs: list[PositionLogprobs] | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    cached_tokens: int = 0
    load_seconds: float = 0.0
    miss_reason: str = ""
    queued_seconds: float = 0.0
    device_seconds: float = 0.0
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    embedding: bytes | None = None
    failure: EngineFailure | None = None
