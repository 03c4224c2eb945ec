"""What the scheduler says of a sequence after a step, as messages. Reads sequences and writes none."""

from __future__ import annotations

from multiflora_engine.core.pooling import embedding_bytes
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.core.step import SampledToken
from multiflora_engine.protocol.requests import EngineFailure, FinishReason, TokenDelta


def token_delta(
    sequence: Sequence,
    sampled: SampledToken | None,
    *,
    is_first: bool,
    finish_reason: FinishReason | None,
    stop_reason: int | None,
) -> TokenDelta:
    """sampled: None when no token is wanted. The first delta also tells how the sequence was begun."""
    return TokenDelta(
        request_id=sequence.request_id,
        index=sequence.index,
        token_ids=[] if sampled is None else [sampled.token_id],
        logprobs=None if sampled is None or sampled.logprobs is None else [sampled.logprobs],
        prompt_logprobs=sequence.prompt_logprobs if is_first else None,
        cached_tokens=sequence.cached_tokens if is_first else 0,
        queued_seconds=sequence.queued_seconds if is_first else 0.0,
        load_seconds=sequence.load_seconds if is_first else 0.0,
        miss_reason=sequence.miss_reason if is_first else "",
        device_seconds=sequence.device_seconds,
        finish_reason=finish_reason,
        stop_reason=stop_reason,
    )


def embedding_delta(sequence: Sequence) -> TokenDelta:
    """The only one of a pooling sequence."""
    return TokenDelta(
        request_id=sequence.request_id,
        embedding=embedding_bytes(sequence),
        cached_tokens=sequence.cached_tokens,
        queued_seconds=sequence.queued_seconds,
        load_seconds=sequence.load_seconds,
        miss_reason=sequence.miss_reason,
        device_seconds=sequence.device_seconds,
        finish_reason="stop",
    )


def failure_delta(sequence: Sequence, failure: EngineFailure) -> TokenDelta:
    """The last one of a sequence that ends before its time."""
    return TokenDelta(request_id=sequence.request_id, index=sequence.index, finish_reason="error", failure=failure)
