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
        **overrides,
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


@pytest.mark.parametrize("divided", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}])
async def test_an_engine_of_which_a_rank_is_killed_ends_with_a_typed_error_and_starts_anew(
    divided: dict[str, int], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = EngineSupervisor(config_of(folder, tmp_path, **divided), patience=Patience(backoff=60.0))
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


def test_more_stages_than_layers_are_refused_with_their_numbers(folder: Path, start_engine: Any) -> None:
    with pytest.raises(
        ModelError, match=r"^--pipeline-parallel-size 3: the model has 2 layers, .* Choose 2 or less\.$"
    ):
        start_engine(folder, pipeline_parallel_size=3)


@pytest.mark.parametrize("divided", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}])
def test_kernels_are_warmed_up_on_all_ranks(divided: dict[str, int], folder: Path, start_engine: Any) -> None:
    """As on a GPU, where they are compiled at their first use."""
    built = start_engine(folder, **divided)
    side, pool = built.device_side, built.residency._pool
    warm_up(side.dummy, Sampler(300), pool, built.model, None, lambda *done: None, compiles_kernels=True)
    assert pool.bytes_in_use == 0
    built.check_ranks()


def failing_for(bad: int, call: Callable[..., Any], has: Callable[..., bool]) -> Callable[..., Any]:
    def failing(*arguments: Any) -> Any:
        if has(bad, *arguments):
            raise ValueError("no such thing")
        return call(*arguments)

    return failing


@pytest.mark.parametrize("divided", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}])
@pytest.mark.parametrize("place", ["batch", "sampling", "sampling, as steps run ahead"])
def test_what_goes_wrong_on_the_first_rank_alone_is_its_requests_own(
    place: str, divided: dict[str, int], folder: Path, monkeypatch: Any, start_engine: Any
) -> None:
    """As on one rank: in the batch before others hear of it, and in sampling, when their part is done."""
    if "ahead" in place:
        monkeypatch.setattr("multiflora_engine.execution.device_side.runs_asynchronously", lambda device: True)
    built = start_engine(folder, max_model_len=64, **divided)
    if place == "batch":
        executor = built.device_side.executor
        monkeypatch.setattr(executor, "build", failing_for(9, executor.build, lambda bad, x: bad in x.token_ids))
    else:
        sampler = built.device_side.runner._sampler
        has = lambda bad, logits, sequences, lengths: any(bad in one.prompt_token_ids for one in sequences)  # noqa: E731
        monkeypatch.setattr(sampler, "launch", failing_for(9, sampler.launch, has))
    params = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, allowed_token_ids=(3, 4))
    for name, prompt in (("a", [5, 6]), ("bad", [9, 6]), ("b", [7, 6, 8])):
        built.engine.add_request(GenerateRequest(id=name, prompt_token_ids=prompt, params=params))
    deltas: list[Any] = []
    while built.engine.has_work:
        deltas += built.engine.step()
    ended = {delta.request_id: delta for delta in deltas if delta.finish_reason is not None}
    assert {name: delta.finish_reason for name, delta in ended.items()} == {
        "a": "length",
        "b": "length",
        "bad": "error",
    }
    assert ended["bad"].failure.code == "internal_error"
    assert sum(len(delta.token_ids) for delta in deltas) == 2 * 5
    built.check_ranks()


def test_at_two_ranks_adapters_take_less_than_70_percent_on_each() -> None:
    """Of Llama-3.1-8B's shapes, all linears touched: each rank has all of A or of B, and half of the other."""
    whole = replace(CONFIG, hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128)
    taken = [
        zero_adapter(model.layer_sites(0), 16, torch.bfloat16).num_bytes
        for model in (whole, whole.shard(0, 2), whole.shard(1, 2))
    ]
    assert taken[1] == taken[2] < 0.7 * taken[0]
