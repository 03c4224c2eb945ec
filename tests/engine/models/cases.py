"""A tiny two-layer model with random weights, a batch for it, and an empty cache; what a config.json becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.models.allocation import allocate_weights
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.configuration.rope_config import RopeConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.form import Form
from multiflora_engine.models.weights import ModelWeights
from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments

CPU = torch.device("cpu")
BLOCK_SIZE, BLOCKS = 4, 12
CONFIG = ModelConfig(
    folder=Path(),
    architecture="LlamaForCausalLM",
    vocab_size=50,
    hidden_size=48,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    norm_eps=1e-5,
    activation="silu",
    form=Form(qkv_bias=True),
    ropes=(RopeConfig("default", 10000.0, 32, 64, 64),),
    rope_of_layer=(0, 0),
    sliding_windows=(None, None),
    tie_word_embeddings=False,
    quantisation=None,
    dtype="float32",
    bos_token_id=None,
    eos_token_ids=(),
    generation_defaults={},
    warnings=(),
)


def config_of(folder: Path, values: Mapping[str, Any]) -> ModelConfig:
    """Of a folder with this config.json, without the keys whose value is ...."""
    given = {key: value for key, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(given))
    return load_model_config(folder)


def refusal_of(folder: Path, values: Mapping[str, Any]) -> str:
    with pytest.raises(ModelError) as caught:
        config_of(folder, values)
    return str(caught.value)


def random_weights(config: ModelConfig = CONFIG) -> ModelWeights:
    torch.manual_seed(3)
    weights = allocate_weights(config, torch.float32, CPU)
    for target in weights.targets().values():
        for tensor in target.tensors:
            tensor.normal_(0, 0.3)
    return weights


def empty_cache() -> KVCache:
    shape = (BLOCKS, CONFIG.num_kv_heads, BLOCK_SIZE, CONFIG.head_dim)
    keys, values = (tuple(torch.full(shape, torch.nan) for _ in range(CONFIG.num_layers)) for _ in range(2))
    return KVCache(keys, values, BLOCKS, BLOCK_SIZE)


def batch_of(
    sequences: list[list[int]],
    starts: list[int],
    lora: LoraSegments | None = None,
    logit_rows: torch.Tensor | None = None,
    logit_lora: LoraSegments | None = None,
) -> ForwardBatch:
    """The tokens of each sequence from starts[s] on; sequence s owns four neighbouring blocks."""
    positions = [torch.arange(start, len(tokens)) for tokens, start in zip(sequences, starts, strict=True)]
    counts = [len(places) for places in positions]
    tables = torch.arange(4 * len(sequences), dtype=torch.int32).view(-1, 4)
    slots = [16 * s + places for s, places in enumerate(positions)]
    return ForwardBatch(
        token_ids=torch.tensor([t for tokens, start in zip(sequences, starts, strict=True) for t in tokens[start:]]),
        positions=torch.cat(positions),
        kv_slots=torch.cat(slots),
        query_starts=torch.tensor([0, *counts]).cumsum(0).int(),
        context_lens=torch.tensor([len(tokens) for tokens in sequences]).int(),
        block_tables=tables,
        query_bounds=QueryBounds(min(counts), max(counts)),
        lora=lora,
        logit_rows=logit_rows,
        logit_lora=logit_lora,
    )
