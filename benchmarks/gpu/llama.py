"""A Llama of any size with random weights made on the device, as an engine with random adapters.

Random on purpose: nothing has to be downloaded, and speed depends on shapes alone.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.device.copies import pinned
from multiflora_adapters.weights import HostAdapter, SiteWeights
from multiflora_engine.build import BuiltEngine, assemble_engine
from multiflora_engine.models.allocation import allocate_weights
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.protocol.config import SizedConfig

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
"""Llama 3.1 8B without its RoPE scaling, which costs nothing at run time."""

_DEVIATION = 0.02


def model_config(shape: dict[str, Any]) -> ModelConfig:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(shape))
        return load_model_config(Path(folder))


def random_weights(
    model: ModelConfig, dtype: torch.dtype, device: torch.device, deviation: float = _DEVIATION
) -> ModelWeights:
    weights = allocate_weights(model, dtype, device)
    generator = torch.Generator(device).manual_seed(1)
    for name, target in weights.targets().items():
        if "norm" in name:
            target.tensors[0].fill_(1.0)
        else:
            target.tensors[0].normal_(0.0, deviation, generator=generator)
    return weights


def adapter_digest(rank: int, number: int) -> str:
    return f"rank {rank} number {number}"


class RandomAdapters:
    """Adapters on all seven linears of each layer, by `adapter_digest`; those of one rank share their host memory."""

    def __init__(self, base: BaseModel, dtype: torch.dtype, device: torch.device, deviation: float) -> None:
        self._base = base
        self._dtype = dtype
        self._deviation = deviation
        self._pinned = device.type == "cuda"
        self._by_rank: dict[int, HostAdapter] = {}

    def load(self, digest: str) -> HostAdapter:
        rank = int(digest.split()[1])
        if rank not in self._by_rank:
            adapter = self._make(rank)
            self._by_rank[rank] = pinned(adapter) if self._pinned else adapter
        return replace(self._by_rank[rank], digest=digest)

    def _make(self, rank: int) -> HostAdapter:
        generator = torch.Generator().manual_seed(rank)

        def values(*shape: int) -> torch.Tensor:
            return (torch.randn(shape, generator=generator) * self._deviation).to(self._dtype)

        sites = {
            name: SiteWeights(values(rank, site.in_features), values(rank, site.out_features), None)
            for name, site in self._base.sites.items()
            if site.layer is not None
        }
        return HostAdapter("", rank, sites, sum(site.num_bytes for site in sites.values()))


def build(model: ModelConfig, weights: ModelWeights, deviation: float = _DEVIATION, **options: Any) -> BuiltEngine:
    """An engine on these weights. deviation: of the adapters' values. options: as in SizedConfig."""
    base = model.base_model("random", digest="random")
    adapters = RandomAdapters(base, weights.dtype, weights.device, deviation)
    config = SizedConfig(model_path="", artifact_root="", **options)
    return assemble_engine(config, model, weights, base, adapters.load)
