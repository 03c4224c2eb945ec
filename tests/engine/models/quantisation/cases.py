"""A fixture that a test may damage and what the loader says of it, and gpt-oss as it is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.weights import ModelWeights

FIXTURES = Path(__file__).parent / "fixtures"
Tensors = dict[str, torch.Tensor]


def load(folder: Path) -> ModelWeights:
    return load_weights(folder, load_model_config(folder), torch.float32, torch.device("cpu"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return str(caught.value)


def changed(name: str, folder: Path, tensors: Callable[[Tensors], Any] | None = None, **settings: Any) -> Path:
    """A copy of a fixture with other tensors, and other keys in its quantization_config (None: without the key)."""
    copy = folder / "model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(FIXTURES / name, copy)
    if tensors is not None:
        found = load_file(copy / "model.safetensors")
        tensors(found)
        save_file(found, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    quantisation = {**config["quantization_config"], **settings}
    config["quantization_config"] = {key: value for key, value in quantisation.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


LEFT_OUT = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def gpt_oss_in_mxfp4(tiny_config: Any, save_model: Any) -> tuple[Any, Path]:
    """(gpt-oss in transformers, its folder) with experts in MXFP4."""
    config = tiny_config(GptOssConfig, num_local_experts=3, num_experts_per_tok=2, head_dim=32, sliding_window=20)
    model, folder = save_model(config)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(122, 126, (experts, outputs, inputs // 32), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        model.get_parameter(name).data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": LEFT_OUT}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    return model, folder
