"""How large steps are by default: cards of five sizes, three models, the CPU, and what the operator says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models.cases import config_of

from multiflora_engine.execution import kv_memory
from multiflora_engine.execution.device import device_memory
from multiflora_engine.execution.kv_memory import size_kv_cache
from multiflora_engine.execution.step_sizes import graph_sizes, mixed_sizes, sized
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.protocol.config import EngineConfig

GIB = 1 << 30
# What torch says of an A16, an RTX 4090, an A100, an H100 and an H200.
CARDS = {16: 15.6, 24: 23.5, 40: 39.4, 80: 79.1, 141: 139.8}
# Bytes of the weights in bfloat16; sizes of Llama 3.2 1B, 3.1 8B and 3.1 70B.
MODELS: dict[str, tuple[int, dict[str, int]]] = {
    "1B": (2_471_645_608, {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}),
    "8B": (16_060_556_376, {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}),
    "70B": (141_107_497_872, {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}),
}


def model_of(folder: Path, name: str) -> ModelConfig:
    """Its files have sizes and no contents."""
    num_bytes, shape = MODELS[name]
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(num_bytes)
    heads = shape["hidden_size"] // (64 if name == "1B" else 128)
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        **shape,
    }
    return config_of(folder, values)


def sizes(model: ModelConfig, card: int | None, **options: Any) -> tuple[int, int, float | None]:
    config = EngineConfig(model_path="", artifact_root="", **options)
    chosen = sized(config, model, None if card is None else int(CARDS[card] * GIB))
    return chosen.max_num_seqs, chosen.max_num_batched_tokens, chosen.gpu_memory_utilization


@pytest.mark.parametrize(
    ("name", "card", "expected"),
    [
        ("1B", 16, (128, 2048, 0.9)),
        ("1B", 24, (128, 2048, 0.9)),
        ("1B", 40, (256, 4096, 0.9)),
        ("1B", 80, (256, 8192, 0.924)),
        ("1B", 141, (256, 8192, 0.957)),
        ("8B", 24, (32, 2048, 0.9)),
        ("8B", 40, (128, 4096, 0.9)),
        ("8B", 80, (256, 8192, 0.924)),
        ("8B", 141, (256, 8192, 0.957)),
    ],
)
def test_a_cards_memory_and_the_model_choose(
    name: str, card: int, expected: tuple[int, int, float], tmp_path: Path
) -> None:
    assert sizes(model_of(tmp_path, name), card) == expected


def test_what_leaves_more_room_gives_more_seats(tmp_path: Path) -> None:
    """8 bits of the KV cache, int8 weights, ranks that divide both, and requests that are shorter."""
    model = model_of(tmp_path, "8B")
    assert sizes(model, 24)[0] == 32
    assert sizes(model, 24, kv_cache_dtype="fp8")[0] == 64
    assert sizes(model, 24, quantization="int8")[0] == 64
    assert sizes(model, 24, tensor_parallel_size=2)[0] == 128
    assert sizes(model, 24, max_model_len=512)[0] == 64
    assert sizes(model, 24, dtype="float32")[0] == 16  # the weights do not fit, as loading them will say


def test_a_steps_activations_leave_the_cache_its_room(tmp_path: Path) -> None:
    model = model_of(tmp_path, "70B")
    assert sizes(model, 80, tensor_parallel_size=2)[:2] == (32, 4096)
    assert sizes(model, 141, tensor_parallel_size=2)[:2] == (256, 8192)
    assert sizes(model, 80, tensor_parallel_size=4)[:2] == (256, 8192)


def test_what_the_operator_says_holds(tmp_path: Path) -> None:
    model = model_of(tmp_path, "8B")
    assert sizes(model, 80, max_num_seqs=7, max_num_batched_tokens=100, gpu_memory_utilization=0.5) == (7, 100, 0.5)
    assert sizes(model, 80, max_num_batched_tokens=16384)[:2] == (256, 16384)
    assert sizes(model, 40, gpu_memory_utilization=0.6)[0] == 64
    assert sizes(model, 24, max_num_seqs=3000)[:2] == (3000, 3000), "every decode fits into a step"


def test_a_cpu_has_sizes_of_its_own(tmp_path: Path) -> None:
    model = model_of(tmp_path, "8B")
    assert sizes(model, None) == (64, 2048, None)
    assert sizes(model, None, gpu_memory_utilization=0.5, max_num_seqs=3) == (3, 2048, None)
    assert device_memory(torch.device("cpu")) is None


def test_the_share_is_of_the_whole_card_and_counts_what_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside 16 GB of weights and 2 GB of steps, the rest of the share is the cache's."""
    model, total = model_of(tmp_path, "8B"), int(CARDS[80] * GIB)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (total - (16 << 30), total))
    device = torch.device("cuda")
    config = sized(EngineConfig(model_path="", artifact_root=""), model, device_memory(device))
    size = size_kv_cache(config, model, torch.bfloat16, device, step_bytes=2 << 30)
    block_bytes = kv_memory.bytes_per_block(model, config.block_size, torch.bfloat16)
    assert size.num_blocks == (int(total * 0.924) - (18 << 30)) // block_bytes


def test_sizes_are_dense_where_steps_are_short() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(6) == [1, 2, 4, 6]
    assert graph_sizes(24) == [1, 2, 4, 8, 16, 24]
    sizes = graph_sizes(200)
    assert sizes[-1] == 200
    assert sizes == sorted(set(sizes))
    assert all(after - before <= (8 if after <= 128 else 16) for before, after in pairwise(sizes))


def test_steps_with_prompts_have_graphs_up_to_the_budget() -> None:
    assert mixed_sizes(8192) == [64, 128, 192, 256, 384, 512]
    assert mixed_sizes(100) == [64, 100]
