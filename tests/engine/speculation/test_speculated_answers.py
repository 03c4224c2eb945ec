"""With drafts each request gets what it gets without: alone and in a crowd, whatever it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from transformers import LlamaConfig

from multiflora_engine.build import BuiltEngine
from multiflora_engine.protocol.requests import GenerateRequest, PositionLogprobs
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.speculation import prompt_lookup

TOLERANCE = 2e-3
BLOCK_BYTES = 2 * 2 * 32 * 4
EAGER: dict[str, Any] = {"enable_prompt_lookup": True, "prompt_lookup_min": 1, "speculative_disable_by_batch_size": 64}
FEW = (7, 8, 9, 10, 11, 2)
"""Answers of so few different tokens repeat themselves, which this tiny model does not do by itself."""


@pytest.fixture(autouse=True)
def _all_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are to be right with many wrong drafts, however fast this machine is."""
    for name in ("_FIRST_LOSS", "_MOST_SAVED", "_ENGINE_FIRST_LOSS", "_ENGINE_MOST_SAVED"):
        monkeypatch.setattr(prompt_lookup, name, 1e9)


@dataclass
class Reply:
    tokens: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[PositionLogprobs]] = field(default_factory=dict)
    reasons: dict[int, object] = field(default_factory=dict)
    predicted: tuple[int, int] = (0, 0)
    """Tokens of the prediction: accepted and rejected."""


def ask_all(built: BuiltEngine, requests: list[GenerateRequest]) -> list[Reply]:
    replies = {request.id: Reply() for request in requests}
    for request in requests:
        built.engine.add_request(request)
    while built.engine.has_work:
        for delta in built.engine.step():
            assert delta.failure is None, delta.failure
            reply = replies[delta.request_id]
            reply.tokens.setdefault(delta.index, []).extend(delta.token_ids)
            reply.logprobs.setdefault(delta.index, []).extend(delta.logprobs or [])
            accepted, rejected = reply.predicted
            reply.predicted = (
                accepted + delta.accepted_prediction_tokens,
                rejected + delta.rejected_prediction_tokens,
            )
            reply.reasons[delta.index] = (delta.finish_reason, delta.stop_reason)
        if built.engine.is_stalled:
            built.residency.wait(0.05)
    return list(replies.values())


def check_same(found: Reply, expected: Reply) -> None:
    assert found.tokens == expected.tokens
    assert found.reasons == expected.reasons
    for index, wanted in expected.logprobs.items():
        for mine, other in zip(found.logprobs[index], wanted, strict=True):
            assert mine.chosen.token_id == other.chosen.token_id
            assert abs(mine.chosen.logprob - other.chosen.logprob) < TOLERANCE
            assert [top.token_id for top in mine.top[:1]] == [top.token_id for top in other.top[:1]]


def requests_of_all_kinds(adapters: list[str]) -> list[GenerateRequest]:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "logprobs": 2},
        {"temperature": 0.7, "seed": 5, "n": 2, "logprobs": 0},
        {"temperature": 0.0, "ignore_eos": False},
        {"temperature": 0.0, "stop_token_ids": [9], "min_tokens": 5},
        {"temperature": 0.5, "top_p": 0.9, "seed": 1, "bad_words": ["x"]},
        {"temperature": 0.0, "presence_penalty": 0.3, "repetition_penalty": 1.1},
        {"temperature": 1.0, "logit_bias": {8: 2.0}, "max_tokens": 7},
    ]
    requests = []
    for number, kind in enumerate(kinds):
        for place, adapter in enumerate((None, *adapters)):
            prompt = [20 + token % 13 for token in range(5 + 16 * number)] + [100 + place, 7, 8, 7, 8]
            params = {"allowed_token_ids": FEW, "ignore_eos": True, "max_tokens": 30, **kind}
            requests.append(
                GenerateRequest(
                    id=f"{number}-{place}",
                    prompt_token_ids=prompt,
                    params=SamplingParams(**params),
                    adapter_digest=adapter,
                    bad_word_ids=[[10, 11], [11]] if "bad_words" in kind else [],
                )
            )
    return requests


@pytest.fixture
def folder(tiny_config: Any, save_model: Any) -> Path:
    _, path = save_model(tiny_config(LlamaConfig))
    assert isinstance(path, Path)
    return path


SIZES: dict[str, dict[str, Any]] = {
    "a large batch": {"max_num_batched_tokens": 512},
    "chunks of nine": {"max_num_batched_tokens": 9, "max_num_seqs": 4},
    "scarce blocks of four": {"kv_cache_memory": 45 * 4 * BLOCK_BYTES, "block_size": 4, "max_num_seqs": 8},
}


def test_every_kind_of_request_gets_what_it_gets_without(
    folder: Path, make_adapters: Callable[[list[int]], list[str]], start_engine: Any
) -> None:
    requests = requests_of_all_kinds(make_adapters([8, 3]))
    plain = start_engine(folder, max_model_len=160, enable_prefix_caching=False)
    expected = [ask_all(plain, [request])[0] for request in requests]
    assert plain.engine.stats().drafts == 0
    for name, sizes in SIZES.items():
        built = start_engine(folder, max_model_len=160, **EAGER, **sizes)
        for turn in ("cold", "warm"):
            for request, found, wanted in zip(requests, ask_all(built, requests), expected, strict=True):
                assert found.reasons.keys() == wanted.reasons.keys(), (name, turn, request.id)
                check_same(found, wanted)
        stats = built.engine.stats()
        assert 0 < stats.accepted_tokens < stats.draft_tokens, name
        assert stats.free_blocks == stats.num_blocks, name
        # Of few seats a flood gives one to an adapter that has none, which preempts as scarce blocks do.
        assert stats.preemptions or not name.startswith("scarce"), name


def test_random_texts_that_repeat_themselves(folder: Path, start_engine: Any) -> None:
    plain = start_engine(folder, max_model_len=96, enable_prefix_caching=False)
    built = start_engine(folder, max_model_len=96, **EAGER, max_num_batched_tokens=20, block_size=4)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        prompts=st.lists(st.lists(st.integers(7, 11), min_size=1, max_size=40), min_size=1, max_size=4),
        temperature=st.sampled_from([0.0, 0.4]),
        max_tokens=st.integers(1, 30),
    )
    def answers_are_equal(prompts: list[list[int]], temperature: float, max_tokens: int) -> None:
        params = SamplingParams(
            temperature=temperature, seed=3, max_tokens=max_tokens, allowed_token_ids=FEW, logprobs=1
        )
        requests = [
            GenerateRequest(id=str(place), prompt_token_ids=prompt, params=params)
            for place, prompt in enumerate(prompts)
        ]
        expected = ask_all(plain, requests)
        for found, wanted in zip(ask_all(built, requests), expected, strict=True):
            check_same(found, wanted)

    answers_are_equal()
    assert built.engine.stats().accepted_tokens > 0


def test_an_abort_amid_drafts_leaves_nothing_behind(folder: Path, start_engine: Any) -> None:
    built = start_engine(folder, **EAGER)
    params = SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True, allowed_token_ids=(7, 8))
    for id in ("a", "b"):
        built.engine.add_request(GenerateRequest(id=id, prompt_token_ids=[7, 8] * 10, params=params))
    while not built.engine.stats().accepted_tokens:
        built.engine.step()
    built.engine.abort("a")
    built.engine.step()
    built.engine.abort("b")
    stats = built.engine.stats()
    assert not built.engine.has_work
    assert stats.free_blocks == stats.num_blocks


def test_the_request_says_whether_it_is_drafted_for(folder: Path, start_engine: Any) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, allowed_token_ids=(7, 8))
    for enabled, wish, expected in (
        (True, None, True),
        (True, False, False),
        (False, None, False),
        (False, True, True),
    ):
        built = start_engine(folder, enable_prompt_lookup=enabled)
        ask_all(built, [GenerateRequest(id="r", prompt_token_ids=[7, 8] * 9, params=params, speculation=wish)])
        assert (built.engine.stats().drafts > 0) == expected


def test_a_prediction_changes_no_answer_and_tells_what_was_of_use(folder: Path, start_engine: Any) -> None:
    """Without prompt lookup by the server's setting."""
    built = start_engine(folder, max_model_len=160, prompt_lookup_min=1, num_speculative_tokens=5)
    prompt = list(range(20, 50))
    for sampling in ({"temperature": 0.0}, {"temperature": 0.7, "seed": 4, "n": 2, "logprobs": 0}):
        params = SamplingParams(max_tokens=40, ignore_eos=True, **sampling)
        plain = GenerateRequest(id="r", prompt_token_ids=prompt, params=params)
        (expected,) = ask_all(built, [plain])
        assert expected.predicted == (0, 0)
        answer = expected.tokens[0]
        wrong = [5 if place % 7 == 3 else token for place, token in enumerate(answer)]
        found = {
            name: ask_all(built, [replace(plain, prediction_token_ids=prediction, speculation=wish)])[0]
            for name, prediction, wish in (
                ("right", answer, None),
                ("wrong", wrong, None),
                ("empty", [], None),
                ("switched off", answer, False),
            )
        }
        for reply in found.values():
            check_same(reply, expected)
        assert found["right"].predicted[0] >= 25
        assert found["wrong"].predicted[0] > 0
        assert found["wrong"].predicted[1] > 0
        assert found["empty"].predicted == found["switched off"].predicted == (0, 0)


def test_what_of_a_prediction_stands_behind_the_answers_end_is_rejected(folder: Path, start_engine: Any) -> None:
    built = start_engine(folder, max_model_len=160, prompt_lookup_min=1)
    plain = GenerateRequest(
        id="r", prompt_token_ids=[7] * 9, params=SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    )
    answer = ask_all(built, [plain])[0].tokens[0]
    last = next(place for place in range(8, 30) if answer[place] not in answer[:place])
    params = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True, stop_token_ids=[answer[last]])
    (found,) = ask_all(built, [replace(plain, params=params, prediction_token_ids=answer)])
    assert found.tokens[0] == answer[: last + 1]
    assert found.predicted[0] <= last
    assert sum(found.predicted) == built.engine.stats().draft_tokens
