"""Beam search finds what transformers finds: the same answers in the same order, one engine step after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.platform.gateway.house import House
from transformers import GenerationConfig, LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_engine.protocol.requests import EngineFailure, PositionLogprobs, TokenLogprob
from multiflora_platform.gateway.beams.search import BeamParams, BeamSearch

VOCAB = 40


@pytest.fixture(scope="module")
def model() -> Any:
    """Random, and fond of the end tokens 2 and 3, so that answers end at many lengths."""
    torch.set_num_threads(1)
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight[2:4] *= 1.6
    return model


def positions(model: Any, rows: list[list[int]], count: int) -> list[PositionLogprobs]:
    with torch.no_grad():
        values, tokens = model(torch.tensor(rows)).logits[:, -1].log_softmax(-1).topk(count)
    tops = [
        [TokenLogprob(t, v, rank) for rank, (t, v) in enumerate(zip(*row, strict=True), 1)]
        for row in zip(tokens.tolist(), values.tolist(), strict=True)
    ]
    return [PositionLogprobs(top[0], top) for top in tops]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize(("width", "ends"), [(1, {2}), (3, {2}), (4, {2, 3}), (5, {38})])
def test_equals_transformers(
    model: Any, width: int, ends: set[int], length_penalty: float, early_stopping: Any
) -> None:
    prompt = [5, 17, 9]
    beams = BeamParams(width, frozenset(ends), length_penalty, early_stopping)
    search = BeamSearch(beams, 12)
    while not search.is_done:
        rows = [prompt + beam.token_ids for beam in search.running]
        search.advance(positions(model, rows, beams.num_candidates))
    config = GenerationConfig(
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=12,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        eos_token_id=sorted(ends),
        pad_token_id=VOCAB - 1,
        do_sample=False,
    )
    with torch.no_grad():
        expected = model.generate(torch.tensor([prompt]), generation_config=config)[:, len(prompt) :].tolist()
    found = [beam.token_ids for beam in search.finished]
    assert [ids + [VOCAB - 1] * (len(row) - len(ids)) for ids, row in zip(found, expected, strict=True)] == expected
    assert {search.finish_reason(beam) for beam in search.finished} <= {"stop", "length"}


async def test_an_answer_comes_out_of_steps_of_one_token(house: House) -> None:
    """The scripted engine's likeliest token is always the first of its reply, so that the search is greedy there."""
    house.engine.device_seconds = 0.25
    body = {"model": "sql", "prompt": "ab", "use_beam_search": True, "n": 2, "max_tokens": 3, "logprobs": 1}
    response = await house.post("/v1/completions", body)
    choices = response.json()["choices"]
    assert [choice["text"] for choice in choices] == ["HHH", "HHI"]
    assert choices[0]["logprobs"]["token_logprobs"] == [-2.0, -2.0, -2.0]
    assert choices[0]["finish_reason"] == "length"
    assert response.json()["usage"]["completion_tokens"] == 6
    assert [len(request.prompt_token_ids) for request in house.engine.requests] == [2, 3, 3, 4, 4]
    assert all(request.adapter_digest == "d" * 64 for request in house.engine.requests)
    assert house.services.usage.counted[None, "sql"].device_us == 5 * 250_000
    assert not house.services.active


async def test_best_of_is_the_width(house: House) -> None:
    body = {"model": "sql", "prompt": "ab", "use_beam_search": True, "best_of": 2, "max_tokens": 3}
    response = await house.post("/v1/completions", body)
    assert [choice["text"] for choice in response.json()["choices"]] == ["HHH"]
    assert len(house.engine.requests) == 5


async def test_a_failing_step_fails_the_request(house: House) -> None:
    house.engine.failure = EngineFailure("adapter_unavailable", "The file is gone.")
    body = {"model": "sql", "prompt": "ab", "use_beam_search": True, "n": 2, "max_tokens": 3}
    response = await house.post("/v1/completions", body)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "adapter_unavailable")
    assert not house.services.active


async def test_a_deadline_ends_the_search(house: House) -> None:
    house.engine.hangs = True
    body = {"model": "sql", "prompt": "ab", "use_beam_search": True, "n": 2, "max_tokens": 3}
    response = await house.post("/v1/completions", body, **{"X-Request-Timeout": "0.05"})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert house.engine.aborted
