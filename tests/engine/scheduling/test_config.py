"""What is refused before it is queued."""

from __future__ import annotations

import pytest

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.config import RequestTooLong, SchedulerConfig


def make_request(num_prompt: int, max_tokens: int | None) -> GenerateRequest:
    return GenerateRequest(id="r", prompt_token_ids=[1] * num_prompt, params=SamplingParams(max_tokens=max_tokens))


def test_the_budget_holds_every_decode() -> None:
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        SchedulerConfig(num_blocks=1, max_model_len=8, max_num_seqs=9, max_num_batched_tokens=8)


@pytest.mark.parametrize(("num_prompt", "max_tokens"), [(10, 1), (9, 2), (9, None), (10, 0), (1, 100)])
def test_what_fits_the_model_and_the_pool_passes(num_prompt: int, max_tokens: int | None) -> None:
    SchedulerConfig(num_blocks=3, block_size=4, max_model_len=11).check(make_request(num_prompt, max_tokens))


@pytest.mark.parametrize(("num_prompt", "max_tokens"), [(11, 1), (12, 0), (11, None)])
def test_prompts_longer_than_the_model_are_refused(num_prompt: int, max_tokens: int | None) -> None:
    with pytest.raises(RequestTooLong, match=f"{num_prompt} tokens; the model's length is 11"):
        SchedulerConfig(num_blocks=100, block_size=4, max_model_len=11).check(make_request(num_prompt, max_tokens))


def test_all_blocks_together_are_a_limit_and_the_last_token_needs_none() -> None:
    config = SchedulerConfig(num_blocks=3, block_size=4, max_model_len=100)
    config.check(make_request(5, 8))
    with pytest.raises(RequestTooLong, match="needs 4 KV blocks; there are 3"):
        config.check(make_request(5, 9))
    with pytest.raises(RequestTooLong):
        config.check(make_request(13, 0))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        SchedulerConfig(num_blocks=3, max_model_len=8).check(make_request(0, 1))
