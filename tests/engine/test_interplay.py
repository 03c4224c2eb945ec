"""Chunked prefill, preemption, prefix cache, adapters, candidates, seeds and prompt log-probabilities, all at once.

Whatever sizes the engine has and whoever else is in the batch, each request gets what it gets alone on a large engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from multiflora_engine.build import BuiltEngine
from multiflora_engine.protocol.requests import GenerateRequest, PositionLogprobs
from multiflora_engine.protocol.sampling_params import SamplingParams

MAX_LEN = 96
BLOCK_BYTES = 2 * 2 * 32 * 4
SHARED = [7 + i % 50 for i in range(80)]
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Question:
    prompt: tuple[int, ...]
    adapter: int | None
    params: SamplingParams
    salt: str = ""


@dataclass
class Reply:
    tokens: dict[int, list[int]] = field(default_factory=dict)
    reasons: dict[int, str | None] = field(default_factory=dict)
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    cached_tokens: int = 0


def questions() -> list[Question]:
    """Prompts of 1 token to all but one of the model's length, whole blocks among them, with shared beginnings."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "max_tokens": 10},
        {"temperature": 0.0, "max_tokens": 3, "prompt_logprobs": 2, "n": 2},
        {"temperature": 0.9, "top_p": 0.9, "seed": 5, "n": 3, "max_tokens": 12},
        {"temperature": 0.7, "seed": 11, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "max_tokens": 12},
        {"temperature": 0.0, "max_tokens": 0, "prompt_logprobs": 0},
    ]
    asked = []
    for place, length in enumerate((1, 15, 16, 17, 32, 64, 80, MAX_LEN - 1)):
        prompt = (SHARED + [200 + place] * MAX_LEN)[:length]
        for turn, kind in enumerate(kinds):
            adapter = (None, 0, 1)[(place + turn) % 3]
            asked.append(Question(tuple(prompt), adapter, SamplingParams(**({"ignore_eos": True} | kind))))
    whole = SamplingParams(max_tokens=0, prompt_logprobs=0, temperature=0.0)
    return [*asked, Question(tuple(range(MAX_LEN)), None, whole)]


def ask_all(built: BuiltEngine, asked: list[Question], adapters: list[str], tag: str = "") -> list[Reply]:
    replies = {f"{tag}{place}": Reply() for place in range(len(asked))}
    for name, question in zip(replies, asked, strict=True):
        built.engine.add_request(
            GenerateRequest(
                id=name,
                prompt_token_ids=list(question.prompt),
                params=question.params,
                adapter_digest=None if question.adapter is None else adapters[question.adapter],
                cache_salt=question.salt,
            )
        )
    while built.engine.has_work:
        for delta in built.engine.step():
            assert delta.failure is None, delta.failure
            reply = replies[delta.request_id]
            reply.tokens.setdefault(delta.index, []).extend(delta.token_ids)
            reply.reasons[delta.index] = delta.finish_reason
            reply.prompt_logprobs = delta.prompt_logprobs or reply.prompt_logprobs
            reply.cached_tokens = max(reply.cached_tokens, delta.cached_tokens)
        if built.engine.is_stalled:
            built.residency.wait(0.05)
    return list(replies.values())


def check_same(found: Reply, expected: Reply, question: Question) -> None:
    assert found.tokens == expected.tokens, question
    assert found.reasons == expected.reasons, question
    assert (found.prompt_logprobs is None) == (expected.prompt_logprobs is None)
    for mine, other in zip(found.prompt_logprobs or [], expected.prompt_logprobs or [], strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert mine.chosen.token_id == other.chosen.token_id
            assert abs(mine.chosen.logprob - other.chosen.logprob) < TOLERANCE
            assert len(mine.top) == len(other.top)


@pytest.fixture
def folder(tiny_config: Any, save_model: Any) -> Path:
    _, path = save_model(tiny_config(LlamaConfig))
    assert isinstance(path, Path)
    return path


MakeAdapters = Callable[[list[int]], list[str]]
SIZES: dict[str, dict[str, Any]] = {
    "blocks of one": {"block_size": 1, "max_num_batched_tokens": 40},
    "blocks larger than any prompt": {"block_size": 256, "max_num_batched_tokens": 33},
    "one token a step": {"max_num_seqs": 1, "max_num_batched_tokens": 1},
    "one sequence": {"max_num_seqs": 1, "max_num_batched_tokens": 64},
    "chunks of seven": {"max_num_seqs": 7, "max_num_batched_tokens": 7},
    "scarce blocks": {"kv_cache_memory": 9 * 16 * BLOCK_BYTES, "max_num_seqs": 8},
    "scarce blocks of one": {"kv_cache_memory": 130 * BLOCK_BYTES, "block_size": 1, "max_num_seqs": 8},
    "no prefix cache": {"enable_prefix_caching": False, "kv_cache_memory": 12 * 16 * BLOCK_BYTES},
    "one slot": {"max_loras": 1, "max_lora_rank": 8},
}


@pytest.mark.slow
def test_everything_at_once_in_engines_of_all_sizes(
    folder: Path, make_adapters: MakeAdapters, start_engine: Any
) -> None:
    adapters = make_adapters([8, 3])
    large = start_engine(folder, max_model_len=MAX_LEN, enable_prefix_caching=False, max_num_batched_tokens=512)
    asked = questions()
    expected = [ask_all(large, [question], adapters)[0] for question in asked]
    assert expected[-1].reasons == {0: "length"}
    lengths = {len(q.prompt): r for q, r in zip(asked, expected, strict=True) if q.params.max_tokens == 10}
    assert len(lengths[MAX_LEN - 1].tokens[0]) == 1, "the model's length ends it"
    for name, sizes in SIZES.items():
        built = start_engine(folder, max_model_len=MAX_LEN, **sizes)
        for turn in ("cold", "warm"):
            replies = ask_all(built, asked, adapters, turn)
            for question, reply, wanted in zip(asked, replies, expected, strict=True):
                check_same(reply, wanted, question)
        stats = built.engine.stats()
        assert stats.free_blocks == stats.num_blocks, name
        assert (stats.preemptions > 0) >= name.startswith("scarce"), name
        assert (stats.cache_hits > 0) == (name not in ("no prefix cache", "blocks larger than any prompt")), name


def test_kv_is_shared_by_content_alone(folder: Path, make_adapters: MakeAdapters, start_engine: Any) -> None:
    """Another adapter, another version of it, another tenant: nothing is shared, and nothing is confused."""
    adapters = make_adapters([8, 8])
    built = start_engine(folder, max_model_len=MAX_LEN, max_loras=1, max_lora_rank=8, max_cpu_loras=1)
    greedy = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    prompt = tuple(SHARED[:50])
    strangers = [
        Question(prompt, None, greedy),
        Question(prompt, 0, greedy),
        Question(prompt, 1, greedy),
        Question(prompt, None, greedy, salt=adapters[0]),
        Question(prompt, 0, greedy, salt="tenant"),
        Question(prompt, None, greedy, salt="tenant"),
    ]
    first = [ask_all(built, [question], adapters, f"first{place}")[0] for place, question in enumerate(strangers)]
    assert [reply.cached_tokens for reply in first] == [0] * len(strangers)
    assert first[0].tokens == first[3].tokens == first[5].tokens
    assert first[1].tokens == first[4].tokens
    assert len({tuple(first[place].tokens[0]) for place in (0, 1, 2)}) == 3
    evictions = built.engine.stats().adapter_evictions
    again = [ask_all(built, [question], adapters, f"again{place}")[0] for place, question in enumerate(strangers)]
    assert [reply.cached_tokens for reply in again] == [48] * len(strangers)
    assert [reply.tokens for reply in again] == [reply.tokens for reply in first]
    assert built.engine.stats().adapter_evictions > evictions, "the cache outlived the adapters' stay in the slot"
