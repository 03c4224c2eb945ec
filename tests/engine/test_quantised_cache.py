"""Engines whose keys and values are in 8 bits: how many fit, how close answers stay, and that all features hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.test_interplay import BLOCK_BYTES, MAX_LEN, ask_all, check_same, questions
from transformers import BloomConfig, LlamaConfig, MistralConfig

from multiflora_engine.execution.device import choose_kv_dtype
from multiflora_engine.models.errors import ModelError

CLOSE = {"int8": 0.05, "fp8": 0.25, "fp8_e5m2": 0.5}
"""Of a log-probability, on average; the random models here have far larger scores than trained ones."""


@pytest.mark.parametrize("kind", CLOSE)
def test_more_blocks_fit_and_answers_stay_close(
    kind: str, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any
) -> None:
    """Heads of 32: 34 bytes instead of 128. Log-probabilities of a prompt that is read in chunks of its cache."""
    _, folder = save_model(tiny_config(LlamaConfig))
    full, packed = (start_engine(folder, kv_cache_dtype=name, max_num_batched_tokens=16) for name in ("auto", kind))
    assert packed.ready.num_blocks == full.ready.num_blocks * 128 // 34
    assert packed.ready.kv_bytes <= 4 << 20
    prompt = [(7 * place) % 290 for place in range(60)]
    sides = [ask(built, [prompt], prompt_logprobs=0, max_tokens=1)[0] for built in (full, packed)]
    pairs = zip(*(side.prompt_logprobs[1:] for side in sides), strict=True)
    off = [abs(mine.chosen.logprob - other.chosen.logprob) for mine, other in pairs]
    assert 0 < max(off) < 10 * CLOSE[kind]
    assert sum(off) / len(off) < CLOSE[kind]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_everything_at_once(
    kind: str, tiny_config: Any, save_model: Any, make_adapters: Any, start_engine: Any
) -> None:
    """Chunks, hits, preemption and mixed batches give what a large engine with the same cache gives one by one."""
    _, folder = save_model(tiny_config(LlamaConfig))
    adapters, asked = make_adapters([8, 3]), questions()[1::4]
    large = start_engine(
        folder, max_model_len=MAX_LEN, enable_prefix_caching=False, max_num_batched_tokens=512, kv_cache_dtype=kind
    )
    expected = [ask_all(large, [question], adapters)[0] for question in asked]
    scarce = 9 * 16 * BLOCK_BYTES * 34 // 128 + 1
    built = start_engine(
        folder, max_model_len=MAX_LEN, kv_cache_memory=scarce, kv_cache_dtype=kind, max_num_batched_tokens=24
    )
    for turn in ("cold", "warm"):
        for question, reply, wanted in zip(asked, ask_all(built, asked, adapters, turn), expected, strict=True):
            check_same(reply, wanted, question)
    stats = built.engine.stats()
    assert stats.num_blocks == stats.free_blocks == 9
    assert stats.preemptions > 0
    assert stats.cache_hits > 0


@pytest.mark.parametrize(("family", "extra"), [(MistralConfig, {"sliding_window": 12}), (BloomConfig, {})])
def test_a_hit_is_answered_as_a_miss(
    family: Any, extra: dict[str, Any], tiny_config: Any, save_model: Any, start_engine: Any, ask: Any
) -> None:
    """With a sliding window and with slopes."""
    _, folder = save_model(tiny_config(family, **extra))
    built = start_engine(folder, kv_cache_dtype="int8")
    prompt = [5 + place % 90 for place in range(45)]
    miss, hit = (ask(built, [prompt], max_tokens=8)[0] for _ in range(2))
    assert (miss.cached_tokens, hit.cached_tokens) == (0, 32)
    assert hit.tokens == miss.tokens
    assert hit.logprobs == pytest.approx(miss.logprobs, abs=2e-3)


def test_what_cannot_be_is_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"as 'int4'\. Use --kv-cache-dtype auto, int8, fp8"):
        choose_kv_dtype("int4", torch.float32)
    assert choose_kv_dtype("auto", torch.bfloat16) == torch.bfloat16
