"""Sequence: what a request becomes, and what grows."""

from __future__ import annotations

import weakref
from typing import Any

from multiflora_engine.core.sequence import SequenceStatus, make_sequences
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams


def make_request(**params: Any) -> GenerateRequest:
    return GenerateRequest(id="r", prompt_token_ids=[1, 2, 3], params=SamplingParams(**params), priority=-2)


def test_a_request_becomes_its_candidates_in_order() -> None:
    sequences = make_sequences(make_request(n=2, best_of=3), first_serial=7)
    assert [sequence.index for sequence in sequences] == [0, 1, 2]
    assert [sequence.order for sequence in sequences] == [(-2, 0, 7), (-2, 0, 8), (-2, 0, 9)]
    assert {sequence.status for sequence in sequences} == {SequenceStatus.WAITING}
    assert sequences[0].priority == -2


def test_outputs_grow_apart_from_the_prompt_and_from_siblings() -> None:
    request = make_request(n=2)
    first, second = make_sequences(request, 0)
    first.append_token(9)
    assert first.token_ids == [1, 2, 3, 9]
    assert first.output_token_ids == [9]
    assert (first.num_tokens, first.num_prompt_tokens) == (4, 3)
    assert second.token_ids == request.prompt_token_ids == [1, 2, 3]


def test_prompt_logprobs_travel_once_with_index_0() -> None:
    first, second = make_sequences(make_request(n=2, prompt_logprobs=0), 0)
    assert first.needs_prompt_logprobs
    assert not second.needs_prompt_logprobs
    first.append_token(9)
    assert not first.needs_prompt_logprobs


def test_sequences_are_compared_by_identity_and_may_be_referenced_weakly() -> None:
    first, second = make_sequences(make_request(n=2), 0)
    assert first != second
    assert weakref.WeakKeyDictionary({first: 1, second: 2})[first] == 1
