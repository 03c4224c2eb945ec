"""A two-layer Llama and adapters that PEFT itself trained (well, filled) and saved: the oracle of these tests."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.weights import HostAdapter, load_adapter

HIDDEN, VOCAB, INNER, LAYERS, KV = 64, 80, 96, 2, 32

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Every kind of adapter that must be served, as arguments of PEFT's LoraConfig; "dtype" is that of the saved file.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "all_linear": {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"},
    "rslora": {"r": 16, "lora_alpha": 4, "target_modules": ALL_LINEAR, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ALL_LINEAR,
        "rank_pattern": {r"^model.layers.0.self_attn.q_proj": 12, r"layers\.1\..*(gate|up)_proj": 2, "o_proj": 3},
        "alpha_pattern": {"down_proj": 32, r"model.layers.1.self_attn.(q|k)_proj": 1},
    },
    "some_layers": {"r": 4, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "layers_pattern": {"r": 4, "target_modules": ["o_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
    "expression": {"r": 4, "target_modules": r".*layers\.\d+\.(self_attn|mlp)\.(q|up)_proj"},
    "excluded": {"r": 4, "target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.0\.self_attn\.q_proj"},
    "dora": {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR, "use_dora": True},
    "lora_bias": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj", "up_proj"], "lora_bias": True},
    "bias_of_targets": {"r": 4, "target_modules": ["q_proj", "o_proj"], "bias": "lora_only"},
    "bias_of_all": {"r": 4, "target_modules": ["v_proj", "down_proj"], "bias": "all", "lora_bias": True},
    "bias_of_all_dora": {"r": 4, "target_modules": ["k_proj"], "bias": "all", "use_dora": True, "use_rslora": True},
    "own_matrices": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["model.embed_tokens", "lm_head"]},
    "token_rows": {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [42, 3, 0]},
    "token_rows_of_head": {
        "r": 4,
        "target_modules": ["k_proj"],
        "modules_to_save": ["embed_tokens"],
        "trainable_token_indices": {"lm_head": [79, 1]},
    },
    "embedding": {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "embedding_dora": {"r": 4, "target_modules": ["embed_tokens", "lm_head", "k_proj"], "use_dora": True},
    "float16": {"r": 4, "target_modules": ALL_LINEAR, "dtype": torch.float16},
    "bfloat16": {"r": 4, "target_modules": ALL_LINEAR, "dtype": torch.bfloat16},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        attention_bias=True,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 or name.endswith("bias"):
            parameter.data = torch.randn_like(parameter) * 0.2
    folder = tmp_path_factory.mktemp("tiny-llama")
    model.save_pretrained(folder)
    return folder


def _load_model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def kinds() -> list[str]:
    return list(KINDS)


@pytest.fixture(scope="session")
def load_model(model_folder: Path) -> Callable[[], LlamaForCausalLM]:
    """A function: a fresh copy of the base model in transformers."""
    return lambda: _load_model(model_folder)


@pytest.fixture(scope="session")
def weights(model_folder: Path) -> dict[str, torch.Tensor]:
    """The base's weights by site name."""
    return {n.removesuffix(".weight"): t for n, t in load_file(model_folder / "model.safetensors").items()}


@pytest.fixture(scope="session")
def load(base: BaseModel, weights: dict[str, torch.Tensor]) -> Callable[..., HostAdapter]:
    """`load_adapter` of a folder with this base's weights and biases."""

    def run(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> HostAdapter:
        def base_bias(name: str) -> torch.Tensor:
            return weights[f"{name}.bias"]

        return load_adapter(folder, base, dtype, weights.__getitem__, base_bias=base_bias, **options)

    return run


@pytest.fixture(scope="session")
def base(model_folder: Path) -> BaseModel:
    sites = [Site("model.embed_tokens", VOCAB, HIDDEN, kind="embedding")]
    shapes = {"q": (HIDDEN, HIDDEN), "k": (HIDDEN, KV), "v": (HIDDEN, KV), "o": (HIDDEN, HIDDEN)}
    inner = {"gate": (HIDDEN, INNER), "up": (HIDDEN, INNER), "down": (INNER, HIDDEN)}
    for layer in range(LAYERS):
        for part, kinds in (("self_attn", shapes), ("mlp", inner)):
            for kind, (k, n) in kinds.items():
                name, has_bias = f"model.layers.{layer}.{part}.{kind}_proj", part == "self_attn"
                reaches_kv = layer + 1 < LAYERS or kind in ("k", "v")
                sites.append(Site(name, k, n, layer, has_bias=has_bias, reaches_kv=reaches_kv))
    sites.append(Site("lm_head", HIDDEN, VOCAB, reaches_kv=False))
    return BaseModel(model_folder.name, "LlamaForCausalLM", "0" * 64, LAYERS, {site.name: site for site in sites})


@pytest.fixture(scope="session")
def peft_adapter(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function: the folder with an adapter of one of KINDS, saved by PEFT."""
    folders: dict[str, Path] = {}

    def adapter(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = _make_adapter(model_folder, tmp_path_factory.mktemp(kind), dict(KINDS[kind]))
        return folders[kind]

    return adapter


def _make_adapter(model_folder: Path, folder: Path, arguments: dict[str, Any]) -> Path:
    from peft import LoraConfig, get_peft_model

    dtype = arguments.pop("dtype", torch.float32)
    torch.manual_seed(len(folder.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(_load_model(model_folder), LoraConfig(**arguments))
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.data *= 1 + 0.2 * torch.rand_like(parameter)
            elif "modules_to_save" in name or "trainable_tokens" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
            elif "lora_" in name or (name.endswith("bias") and "bias" in arguments):
                parameter.data = 0.2 * torch.randn_like(parameter)
        model.save_pretrained(folder)
    if dtype is not torch.float32:
        path = folder / "adapter_model.safetensors"
        save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    return folder


@pytest.fixture
def broken(tmp_path: Path, peft_adapter: Callable[[str], Path]) -> Callable[..., Path]:
    """A function that copies an adapter with changes: to its configuration, and to its tensors by a function."""

    def change(
        kind: str = "plain",
        config: dict[str, Any] | None = None,
        tensors: Callable[[dict[str, torch.Tensor]], object] | None = None,
    ) -> Path:
        source = peft_adapter(kind)
        merged = json.loads((source / "adapter_config.json").read_text()) | (config or {})
        (tmp_path / "adapter_config.json").write_text(json.dumps(merged))
        content = load_file(source / "adapter_model.safetensors")
        if tensors is not None:
            tensors(content)
        save_file(content, tmp_path / "adapter_model.safetensors")
        return tmp_path

    return change
