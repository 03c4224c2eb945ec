"""finish_of: EOS, stop tokens, lengths, and which of them wins."""

from __future__ import annotations

from typing import Any

import pytest

from multiflora_engine.core.sequence import make_sequences
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.token_deltas import finish_of

EOS = 2


@pytest.mark.parametrize(
    ("output", "params", "expected"),
    [
        ([5], {}, (None, None)),
        ([5, EOS], {}, ("stop", None)),
        ([EOS], {"ignore_eos": True}, (None, None)),
        ([EOS], {"ignore_eos": True, "stop_token_ids": (EOS,)}, ("stop", EOS)),
        ([EOS], {"stop_token_ids": (EOS,)}, ("stop", None)),
        ([7], {"stop_token_ids": (6, 7)}, ("stop", 7)),
        ([7, 5], {"stop_token_ids": (6, 7)}, (None, None)),
        ([EOS], {"min_tokens": 2}, (None, None)),
        ([7], {"min_tokens": 2, "stop_token_ids": (7,)}, (None, None)),
        ([5, EOS], {"min_tokens": 2}, ("stop", None)),
        ([5, 5, 5], {"max_tokens": 3}, ("length", None)),
        ([5, 5, EOS], {"max_tokens": 3}, ("stop", None)),
        ([5] * 6, {"max_tokens": 99}, (None, None)),
        ([5] * 7, {"max_tokens": 99}, ("length", None)),
        ([5] * 7, {"max_tokens": 99, "min_tokens": 50}, ("length", None)),
        ([], {"max_tokens": 0}, ("length", None)),
    ],
)
def test_finish(output: list[int], params: dict[str, Any], expected: tuple[str | None, int | None]) -> None:
    request = GenerateRequest(
        id="r", prompt_token_ids=[EOS, 7, 1], params=SamplingParams(**{"max_tokens": 99, **params})
    )
    (sequence,) = make_sequences(request, 0)
    for token_id in output:
        sequence.append_token(token_id)
    assert finish_of(sequence, {EOS}, max_model_len=10) == expected
