"""What becomes of an engine when one of its ranks ends, and what cannot be divided among ranks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.engine.models.cases import CONFIG
from transformers import LlamaConfig, Qwen3MoeConfig

from multiflora_adapters.zero_adapter import zero_adapter
from multiflora_engine.execution.warm_up import warm_up
from multiflora_engine.models.errors import ModelError
from multiflora_engine.process.supervisor import EngineSupervisor, Patience
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.sampling.sampler import Sampler


@pytest.fixture
def folder(tiny_config: Any, save_model: Any) -> Path:
    _, folder = save_model(tiny_config(LlamaConfig, num_attention_heads=4, num_key_value_heads=2))
    return folder


def config_of(folder: Path, tmp_path: Path, **overrides: Any) -> EngineConfig:
    return EngineConfig(
        model_path=str(folder),
        artifact_root=str(tmp_path / "artifacts"),
        kv_cache_memory=4 << 20,
        num_threads=1,
        device="cpu",
        **({"tensor_parallel_size": 2} | overrides),
    )


def request(name: str, max_tokens: int) -> GenerateRequest:
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    return GenerateRequest(id=name, prompt_token_ids=[5, 6, 7], params=params)


def other_rank(engine: int | None) -> psutil.Process:
    (rank,) = psutil.Process(engine).children()
    return rank


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came true")


async def test_an_engine_of_which_a_rank_is_killed_ends_with_a_typed_error_and_starts_anew(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = EngineSupervisor(config_of(folder, tmp_path), patience=Patience(backoff=60.0))
    await supervisor.start()
    try:
        await supervisor.wait_ready()
        stream = supervisor.client.generate(request("long", 400))
        await anext(stream)
        other_rank(supervisor.pid).kill()
        last = [delta async for delta in stream][-1]
        assert last.failure is not None
        assert (last.finish_reason, last.failure.code) == ("error", "engine_dead")
        await until(lambda: supervisor.restarts == 1)
        assert "Rank 1 of this engine ended: killed by SIGKILL" in caplog.text
    finally:
        await supervisor.stop()


def test_what_ends_a_rank_as_it_loads_ends_the_start(folder: Path, monkeypatch: Any, start_engine: Any) -> None:
    """The operator is told what that rank says."""

    def too_large(*arguments: Any) -> None:
        raise ModelError("The weights take too much.")

    monkeypatch.setattr("multiflora_engine.process.rank.load_model", too_large)
    with pytest.raises(ModelError, match=r"^Rank 1: The weights take too much\.$"):
        start_engine(folder, tensor_parallel_size=2)


@pytest.mark.parametrize(
    ("config_class", "values", "ranks", "said"),
    [
        (LlamaConfig, {}, 3, r"2 attention heads cannot be divided among 3 ranks\. Choose 1, 2\."),
        (LlamaConfig, {"intermediate_size": 95}, 2, r"95 MLP columns \(intermediate_size\) cannot .* Choose 1\."),
        (Qwen3MoeConfig, {"moe_intermediate_size": 45}, 2, "45 columns of each expert cannot be divided among 2 ranks"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_its_numbers(
    config_class: Any,
    values: dict[str, Any],
    ranks: int,
    said: str,
    tmp_path: Path,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
) -> None:
    _, folder = save_model(tiny_config(config_class, **values))
    with pytest.raises(ModelError, match=f"^--tensor-parallel-size {ranks}: .*{said}"):
        start_engine(folder, tensor_parallel_size=ranks)


def test_kernels_are_warmed_up_on_all_ranks(folder: Path, start_engine: Any) -> None:
    """As on a GPU, where they are compiled at their first use."""
    built = start_engine(folder, tensor_parallel_size=2)
    side, pool = built.device_side, built.residency._pool
    warm_up(side.dummy, Sampler(300), pool, built.model, None, lambda *done: None, compiles_kernels=True)
    assert pool.bytes_in_use == 0
    built.check_ranks()


def test_copies_of_blocks_are_refused(folder: Path, start_engine: Any) -> None:
    with pytest.raises(ModelError, match="Leave out --kv-offload-bytes"):
        start_engine(folder, tensor_parallel_size=2, kv_offload_bytes=1 << 20)


def test_at_two_ranks_adapters_take_less_than_70_percent_on_each() -> None:
    """Of Llama-3.1-8B's shapes, all linears touched: each rank has all of A or of B, and half of the other."""
    whole = replace(CONFIG, hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128)
    taken = [
        zero_adapter(model.layer_sites(0), 16, torch.bfloat16).num_bytes
        for model in (whole, whole.shard(0, 2), whole.shard(1, 2))
    ]
    assert taken[1] == taken[2] < 0.7 * taken[0]
