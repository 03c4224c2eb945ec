"""What is measured on a GPU runs on a tiny model here, so that the scripts work when there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import inputs
from gpu import peers
from gpu.idle import gaps
from gpu.llama import LLAMA_8B, build, model_config, random_weights
from gpu.measure import Limits
from gpu.steps import Traffic, adapter_bytes, decode_results, linear_parameters, lora_taxes, prefill_results
from multiflora_engine.build import BuiltEngine

TINY: dict[str, Any] = LLAMA_8B | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CPU, LIMITS = torch.device("cpu"), Limits(bandwidth=1e7, arithmetic=1e8)


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


def test_steps_and_taxes(built: BuiltEngine) -> None:
    traffic = Traffic(built)
    decode = list(decode_results(traffic, LIMITS, [1, 4, 400], [64]))
    assert [row.shape for row in decode] == ["batch 1, context 64", "batch 4, context 64"], "400 have no room"
    prefill = list(prefill_results(traffic, LIMITS, [64, 256]))
    assert [row.name for row in prefill] == ["prefill = miss", "hit"] * 2
    assert all(row.us > 0 and row.floor_us > 0 and row.share > 0 for row in (*decode, *prefill))
    (tax,) = lora_taxes(traffic, 8, [(3, 4)], context=64)
    assert (tax.adapters, tax.batch, tax.rank) == (3, 4, 8)
    assert tax.us > 0
    assert tax.floor > 0
    assert not built.engine.has_work


@pytest.mark.slow
def test_both_sides_of_the_comparison_answer(
    built: BuiltEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "VOCABULARY", 512)
    monkeypatch.setattr(peers, "WORKLOADS", ("w2-8",))
    inputs.make_workloads(tmp_path)
    speeds = peers.engine_speeds(built, tmp_path)
    rows = list(peers.compare(speeds, peers.baseline_model(TINY, CPU, torch.float32), tmp_path))
    assert [row.workload for row in rows] == ["w2-8"]
    assert all(row.tokens_per_second > 0 and row.baseline_tokens_per_second > 0 and row.ratio > 0 for row in rows)


def test_gaps_between_spans_that_overlap() -> None:
    assert gaps([]) == 0
    assert gaps([(10.0, 20.0)]) == 0
    assert gaps([(30.0, 40.0), (0.0, 10.0), (5.0, 20.0), (6.0, 7.0)]) == pytest.approx(0.25)
