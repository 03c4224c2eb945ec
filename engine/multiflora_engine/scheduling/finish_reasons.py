"""When a sequence is over: EOS, stop tokens and lengths. Stop strings belong to the front end, which aborts."""

from __future__ import annotations

from collections.abc import Set

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.protocol.requests import FinishReason


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
