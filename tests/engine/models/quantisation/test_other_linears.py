"""Quantised linears where dense ones lie otherwise: transposed in GPT-2, one for each expert in mixtures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engine.models.quantisation.cases import Tensors, refusal
from transformers import GPT2Config, MixtralConfig

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
GPT2 = {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512}


def as_gptq(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """weight: [N, K]. The tensors of a checkpoint, and what they stand for."""
    outputs, inputs = weight.shape
    scales = weight.view(outputs, -1, 32).abs().amax(2) / 7  # [N, G]
    codes = (weight.view(outputs, -1, 32) / scales[..., None]).round().clamp(-8, 7) + 8
    rows = codes.view(outputs, inputs).T.reshape(inputs // 8, 8, outputs).long()
    words = sum(rows[:, place] << (4 * place) for place in range(8))
    assert isinstance(words, torch.Tensor)
    words = torch.where(words >= 1 << 31, words - (1 << 32), words).int()
    zeros = torch.full((inputs // 32, outputs // 8), 0x77777777, dtype=torch.int32)
    parts = {f"{name}.qweight": words, f"{name}.qzeros": zeros, f"{name}.scales": scales.T}
    return parts, ((codes - 8) * scales[..., None]).view(outputs, inputs)


def as_int8(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    largest = weight.abs().amax(1)
    codes = (weight / largest[:, None] * 127).round()
    return {f"{name}.weight": codes.to(torch.int8), f"{name}.SCB": largest}, codes * largest[:, None] / 127


Quantise = Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]]


def save_quantised(folder: Path, names: list[str], quantise: Quantise, settings: Any, is_transposed: bool) -> Path:
    """Quantises these linears in the folder's files. Returns another folder with the dense twin."""
    tensors = load_file(folder / "model.safetensors")
    dense = dict(tensors)
    for name in names:
        weight = tensors.pop(f"{name}.weight")
        parts, meant = quantise(name, (weight.T if is_transposed else weight).contiguous())
        tensors |= parts
        dense[f"{name}.weight"] = (meant.T if is_transposed else meant).contiguous()
    config = json.loads((folder / "config.json").read_text())
    twin = folder / "twin"
    twin.mkdir()
    (twin / "config.json").write_text(json.dumps(config))
    save_file(dense, twin / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return twin


def linears(folder: Path, endings: tuple[str, ...]) -> list[str]:
    names = (name.removesuffix(".weight") for name in load_file(folder / "model.safetensors"))
    return [name for name in names if name.endswith(endings)]


def check_twins(folder: Path, twin: Path, start_engine: Any, ask: Any, prompts: Any) -> None:
    """The dense twin is read as it is, which other tests hold against transformers."""
    asked = prompts[1:5]
    found, expected = (ask(start_engine(place, max_model_len=256), asked) for place in (folder, twin))
    for answer, other in zip(found, expected, strict=True):
        assert answer.tokens == other.tokens
        assert answer.logprobs == pytest.approx(other.logprobs, abs=2e-3)


@pytest.mark.parametrize(("quantise", "settings"), [(as_gptq, GPTQ), (as_int8, INT8)], ids=["gptq", "int8"])
@pytest.mark.parametrize("endings", [("c_attn", "c_proj", "c_fc"), ("attn.c_proj",)], ids=["all", "square"])
def test_linears_that_gpt2_stores_transposed(
    quantise: Quantise,
    settings: dict[str, Any],
    endings: tuple[str, ...],
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    prompts: Any,
) -> None:
    """Tools turn them round before they quantise; of a square one, the shape would not tell."""
    _, folder = save_model(tiny_config(GPT2Config, **GPT2))
    names = linears(folder, endings)
    if len(endings) == 1:
        others = linears(folder, ("mlp.c_proj",))
        left_out = {"llm_int8_skip_modules": others} if settings is INT8 else {"dynamic": {r"-:.*mlp\.c_proj": {}}}
        settings = {**settings, **left_out}
    twin = save_quantised(folder, names, quantise, settings, is_transposed=True)
    check_twins(folder, twin, start_engine, ask, prompts)


@pytest.mark.parametrize(("quantise", "settings"), [(as_gptq, GPTQ), (as_int8, INT8)], ids=["gptq", "int8"])
def test_experts_of_a_mixture(
    quantise: Quantise,
    settings: dict[str, Any],
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    prompts: Any,
) -> None:
    _, folder = save_model(tiny_config(MixtralConfig, num_local_experts=3))
    names = linears(folder, ("w1", "w2", "w3", "q_proj", "k_proj", "v_proj", "o_proj"))
    assert len(names) == 2 * (3 * 3 + 4)
    check_twins(folder, save_quantised(folder, names, quantise, settings, False), start_engine, ask, prompts)


def test_a_damaged_expert_is_refused_by_its_name(tiny_config: Any, save_model: Any) -> None:
    _, folder = save_model(tiny_config(MixtralConfig, num_local_experts=3))
    save_quantised(folder, linears(folder, ("w1", "w2", "w3")), as_gptq, GPTQ, False)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.block_sparse_moe.experts.2.w2.scales"
    save_file({**tensors, name: tensors[name][:2].contiguous()}, folder / "model.safetensors")
    assert f"{name} has the shape [2, 64]" in refusal(folder)


def test_experts_that_are_quantised_as_one_tensor_are_refused_by_its_name(
    tiny_config: Any, save_model: Any, tmp_path: Path
) -> None:
    """As bitsandbytes and FP8 would store what transformers 5 has in memory."""
    model, _ = save_model(tiny_config(MixtralConfig, num_local_experts=3))
    folder = tmp_path / "fused"
    model.save_pretrained(folder, save_original_format=False)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.experts.down_proj"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": INT8}))
    packed = torch.zeros(tensors[name].numel() // 2, 1, dtype=torch.uint8)
    save_file({**tensors, name: packed, f"{name}.absmax": torch.ones(9)}, folder / "model.safetensors")
    assert f"{name} has the shape" in refusal(folder)
    scale = {f"{name}_scale_inv": torch.ones(3, 1, 1)}
    eight = tensors[name].to(torch.float8_e4m3fn)
    save_file({**tensors, name: eight, **scale}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    assert re.search(r"experts\.\d\.w\d\.weight", refusal(folder))
