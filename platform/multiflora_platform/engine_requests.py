"""The one place where requests to the engine are made: a client's, a warm-up's, an eval's, a copy of another one's.

Knows what fields an engine request has; not who asks, nor whether he may.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from multiflora_engine.protocol.requests import DocumentSpan, GenerateRequest, Pooling
from multiflora_engine.protocol.sampling_params import SamplingParams, bad_word_token_ids
from multiflora_platform.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class CacheScope:
    """Whose cached blocks a request reads, and whose share its own count towards."""

    salt: str = ""
    """Requests share blocks only when it is equal."""
    owner: str = ""
    """The tenant, opaque; empty is the salt itself."""
    share: float = 1.0
    """Of all KV blocks, what the owner may hold at the same time."""


PRIVATE_ENGINE = CacheScope()
"""Of an engine with one user: nothing is kept apart."""


def make_request(
    prompt_token_ids: list[int],
    params: SamplingParams,
    tokenizer: Tokenizer | None = None,
    vocab_size: int | None = None,
    *,
    adapter_digest: str | None,
    cache: CacheScope,
    id: str | None = None,
    priority: int = 0,
    background: bool = False,
    is_prefix: bool = False,
    deadline: float | None = None,
    arrival_time: float | None = None,
    pooling: Pooling | None = None,
    grammar: str | None = None,
    speculation: bool | None = None,
    prediction: list[int] | None = None,
    documents: Sequence[DocumentSpan] = (),
) -> GenerateRequest:
    """params: checked, with max_tokens set. tokenizer, vocab_size (of the model): for bad_words. background: no client
    waits for it. is_prefix: prompts to come begin so. prediction: what the answer may be like. documents: of
    the prompt, those whose KV may be taken from elsewhere.
    id, arrival_time: by default new, and now."""
    return GenerateRequest(
        id=id or uuid.uuid4().hex,
        prompt_token_ids=prompt_token_ids,
        params=params,
        adapter_digest=adapter_digest,
        cache_salt=cache.salt,
        cache_owner=cache.owner,
        cache_share=cache.share,
        bad_word_ids=_bad_word_ids(params, tokenizer, vocab_size),
        priority=priority,
        background=background,
        is_prefix=is_prefix,
        deadline=deadline,
        arrival_time=time.time() if arrival_time is None else arrival_time,
        pooling=pooling,
        grammar=grammar,
        speculation=speculation,
        prediction_token_ids=prediction,
        documents=[*documents],
    )


def copy_request(request: GenerateRequest, **changes: Any) -> GenerateRequest:
    """The same under an id of its own, but for the changes."""
    return replace(request, id=uuid.uuid4().hex, **changes)


def _bad_word_ids(params: SamplingParams, tokenizer: Tokenizer | None, vocab_size: int | None) -> list[list[int]]:
    """Without words that the model cannot write: their tokens are beyond its rows."""
    if not params.bad_words:
        return []
    assert tokenizer is not None, "only parameters of clients have bad words, and these come with a tokenizer"
    assert vocab_size is not None, "the size of its model comes with it"
    words = bad_word_token_ids(params.bad_words, lambda text: tokenizer.encode(text, False))
    return [word for word in words if max(word) < vocab_size]
