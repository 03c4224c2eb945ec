"""What the scheduler says of a sequence after a step, as messages, and when that is its last one. Reads sequences and
writes none. Stop strings belong to the front end, which aborts."""

from __future__ import annotations

from collections.abc import Set

from multiflora_engine.core.pooling import embedding_bytes
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.core.step import SampledToken
from multiflora_engine.protocol.requests import EngineFailure, FinishReason, TokenDelta
from multiflora_engine.scheduling.config import SchedulerConfig


def token_delta(
    sequence: Sequence, sampled: SampledToken | None, config: SchedulerConfig, *, is_first: bool
) -> TokenDelta:
    """Of a sequence that has the token already. sampled: None when no token is wanted.

    It is the last one when it has a finish reason; the first one also tells how the sequence was begun.
    """
    finish_reason, stop_reason = finish_of(sequence, config.eos_token_ids, config.max_model_len)
    return TokenDelta(
        request_id=sequence.request_id,
        index=sequence.index,
        token_ids=[] if sampled is None else [sampled.token_id],
        logprobs=None if sampled is None or sampled.logprobs is None else [sampled.logprobs],
        prompt_logprobs=sequence.prompt_logprobs if is_first else None,
        cached_tokens=sequence.cached_tokens if is_first else 0,
        cache_write_tokens=_written_tokens(sequence, config) if is_first else 0,
        queued_seconds=sequence.queued_seconds if is_first else 0.0,
        load_seconds=sequence.load_seconds if is_first else 0.0,
        miss_reason=sequence.miss_reason if is_first else "",
        evicted_tokens=_evicted_tokens(sequence) if is_first else 0,
        device_seconds=sequence.device_seconds,
        finish_reason=finish_reason,
        stop_reason=stop_reason,
    )


def embedding_delta(sequence: Sequence, config: SchedulerConfig) -> TokenDelta:
    """The only one of a pooling sequence."""
    return TokenDelta(
        request_id=sequence.request_id,
        embedding=embedding_bytes(sequence),
        cached_tokens=sequence.cached_tokens,
        cache_write_tokens=_written_tokens(sequence, config),
        queued_seconds=sequence.queued_seconds,
        load_seconds=sequence.load_seconds,
        miss_reason=sequence.miss_reason,
        evicted_tokens=_evicted_tokens(sequence),
        device_seconds=sequence.device_seconds,
        finish_reason="stop",
    )


def failure_delta(sequence: Sequence, failure: EngineFailure) -> TokenDelta:
    """The last one of a sequence that ends before its time."""
    return TokenDelta(request_id=sequence.request_id, index=sequence.index, finish_reason="error", failure=failure)


def _written_tokens(sequence: Sequence, config: SchedulerConfig) -> int:
    return len(sequence.written_blocks) * config.block_size


def _evicted_tokens(sequence: Sequence) -> int:
    """Less what the prefill found after its start."""
    return min(sequence.evicted_tokens, sequence.num_prompt_tokens - sequence.cached_tokens)


def finish_of(
    sequence: Sequence, eos_token_ids: Set[int], max_model_len: int
) -> tuple[FinishReason | None, int | None]:
    """(finish reason, stop reason) after the last output token; (None, None) when the sequence goes on.

    The stop reason is the stop token's id, and None for EOS. Below min_tokens only the lengths end a sequence.
    """
    params, num_output = sequence.params, len(sequence.output_token_ids)
    if num_output and num_output >= params.min_tokens:
        token_id = sequence.output_token_ids[-1]
        if token_id in eos_token_ids and not params.ignore_eos:
            return "stop", None
        if token_id in params.stop_token_ids:
            return "stop", token_id
    if num_output == params.max_tokens or sequence.num_tokens >= max_model_len:
        return "length", None
    return None, None
