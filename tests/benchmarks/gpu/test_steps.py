"""Steps and workloads run on a tiny model on the CPU: what they count and that they leave an engine as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import inputs
from gpu import peers
from gpu.llama import LLAMA_8B, build, model_config, random_weights
from gpu.measure import Limits
from gpu.steps import (
    StepCost,
    Traffic,
    adapter_bytes,
    decode_costs,
    decode_seconds,
    decoding,
    floor_seconds,
    hit_seconds,
    linear_parameters,
    prefill_costs,
    prefill_seconds,
)
from multiflora_engine.build import BuiltEngine

TINY: dict[str, Any] = LLAMA_8B | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def built() -> Iterator[BuiltEngine]:
    model = model_config(TINY)
    sizes = {"kv_cache_memory": 8 << 20, "max_num_seqs": 64, "max_num_batched_tokens": 512, "max_model_len": 2048}
    weights = random_weights(model, torch.float32, CPU)
    engine = build(model, weights, **sizes, max_loras=32, max_lora_rank=16, num_threads=1)
    yield engine
    engine.close()


def test_an_8b_model_has_the_bytes_that_the_floors_count() -> None:
    model = model_config(LLAMA_8B)
    assert linear_parameters(model) == pytest.approx(7.5e9, rel=0.01)
    assert adapter_bytes(model, 16, 2) == 83_886_080


def test_steps_take_time_and_leave_nothing_behind(built: BuiltEngine) -> None:
    traffic = Traffic(built)
    assert decode_seconds(traffic, 4, 64) > 0
    assert decode_seconds(traffic, 4, 64, adapters=3, rank=8) > 0
    assert prefill_seconds(traffic, 64) > 0
    assert hit_seconds(traffic, 256) > 0
    assert not built.engine.has_work


def test_a_decode_that_fails_leaves_nothing_behind(built: BuiltEngine) -> None:
    traffic = Traffic(built)
    with pytest.raises(ZeroDivisionError), decoding(traffic, 4, 32, 0, 8):
        _ = 1 / 0
    assert not built.engine.has_work


def test_floors_are_what_takes_longer_of_each_operation() -> None:
    limits = Limits(bandwidth=10.0, arithmetic=100.0)
    moves, computes = StepCost(50.0, 100.0), StepCost(5.0, 1000.0)
    assert floor_seconds([moves], limits) == 5.0
    assert floor_seconds([computes], limits) == 10.0
    assert floor_seconds([moves, computes], limits) == 15.0, "they follow each other"


@pytest.mark.parametrize(
    ("batch", "context", "adapters", "floor"),
    [(1, 512, 0, 3.51), (64, 2048, 0, 7.49), (128, 2048, 0, 11.48), (256, 512, 0, 8.86), (1, 512, 1, 3.53)],
)
def test_the_floors_of_decode_steps_on_an_h200(batch: int, context: int, adapters: int, floor: float) -> None:
    """4.3 TB/s and 790 TFLOP/s; at 256 sequences products wait for arithmetic and attention for memory."""
    costs = decode_costs(model_config(LLAMA_8B), batch, context, adapters, 16, 2)
    assert 1e3 * floor_seconds(costs, Limits(4.3e12, 790e12)) == pytest.approx(floor, abs=0.015)


@pytest.mark.parametrize(("tokens", "floor"), [(1024, 18.7), (8192, 167.0), (32768, 936.0)])
def test_the_floors_of_prompts_on_an_h200(tokens: int, floor: float) -> None:
    costs = prefill_costs(model_config(LLAMA_8B), tokens, 2)
    assert 1e3 * floor_seconds(costs, Limits(4.3e12, 790e12)) == pytest.approx(floor, rel=0.01)


@pytest.mark.slow
def test_both_sides_of_the_comparison_answer(built: BuiltEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "VOCABULARY", 512)
    requests = peers.workloads.__wrapped__()["w2-8"]
    assert peers.engine_speed(Traffic(built), requests) > 0
    assert peers.baseline_speed(peers.baseline_model(TINY, CPU, torch.float32), requests) > 0
