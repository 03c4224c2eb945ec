"""MXFP4 is read as transformers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engine.models.quantisation.cases import gpt_oss_in_mxfp4
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.quantisation.dense_source import DenseSource
from multiflora_engine.models.quantisation.dense_sources import dense_sources
from multiflora_engine.models.quantisation.quantisation_config import read_quantisation
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.quantised import QuantisedWeight
from multiflora_kernels.runtime.native import library

NAME = "model.layers.0.mlp.experts.1.gate_up_proj"


def source(folder: Path, blocks: torch.Tensor, scales: torch.Tensor) -> DenseSource:
    save_file({f"{NAME}_blocks": blocks, f"{NAME}_scales": scales}, folder / "model.safetensors")
    settings = read_quantisation({"quantization_config": {"quant_method": "mxfp4"}}, folder)
    sources = dense_sources(stored_tensors(folder), settings)
    assert sorted(sources) == [f"{NAME}.weight"]
    return sources[f"{NAME}.weight"]


def test_an_expert_equals_that_of_transformers(tmp_path: Path) -> None:
    blocks = torch.randint(0, 256, (6, 2, 16), dtype=torch.uint8)
    scales = torch.randint(100, 140, (6, 2), dtype=torch.uint8)
    found = source(tmp_path, blocks, scales)
    found.check()
    expected = convert_moe_packed_tensors(blocks[None], scales[None], dtype=torch.float32)[0].T
    assert found.shape == tuple(expected.shape) == (6, 64)
    assert torch.equal(torch.cat(list(found.pieces())).view(found.shape), expected)
    assert found.num_bytes == blocks.numel() + scales.numel()


@pytest.mark.parametrize(
    ("blocks", "scales", "words"),
    [
        ((6, 2, 15), (6, 2), "_blocks has the shape"),
        ((6, 32), (6, 2), "three dimensions"),
        ((6, 2, 16), (6, 1), "_scales has the shape"),
    ],
)
def test_damaged_files_are_refused(
    blocks: tuple[int, ...], scales: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    damaged = source(tmp_path, torch.zeros(blocks, dtype=torch.uint8), torch.zeros(scales, dtype=torch.uint8))
    with pytest.raises(ModelError, match=words):
        damaged.check()


EXPERTS = "model.layers.1.mlp.experts"


@pytest.fixture
def gpt_oss(tiny_config: Any, save_model: Any) -> tuple[Any, Path]:
    """(gpt-oss in transformers, its folder) with experts in MXFP4."""
    return gpt_oss_in_mxfp4(tiny_config, save_model)


@pytest.mark.parametrize("dequantize", [False, True])
def test_gpt_oss_as_it_is_published(
    dequantize: bool, gpt_oss: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    model, folder = gpt_oss
    asked = prompts[1:6]
    engine = start_engine(folder, max_model_len=256, dequantize=dequantize)
    kind = DenseWeight if dequantize or library() is None else QuantisedWeight
    for layer, stored in zip(engine.weights.layers, model.model.layers, strict=True):
        for expert, gate_up in zip(layer.mlp.experts, stored.mlp.experts.gate_up_proj, strict=True):
            assert isinstance(expert.up.weight, kind)
            rows = torch.cat([gate_up[:, ::2], gate_up[:, 1::2]], 1).T
            assert torch.equal(expert.up.weight.dequantised_rows(0, 192), rows)
    answers = ask(engine, asked, prompt_logprobs=0)
    for prompt, answer in zip(asked, answers, strict=True):
        check_answer(model, prompt, answer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{EXPERTS}.down_proj_scales"), "lacks .*experts.0.down_proj_scales"),
        (lambda t: t.pop(f"{EXPERTS}.gate_up_proj_bias"), "lacks .*experts.0.gate_up_proj.bias"),
        (lambda t: t.pop("model.layers.0.self_attn.sinks"), "lacks model.layers.0.self_attn.sinks"),
        (lambda t: t.pop("model.layers.0.mlp.router.bias"), "lacks model.layers.0.mlp.router.bias"),
        (
            lambda t: t.update({"model.layers.0.self_attn.sinks": torch.ones(3)}),
            r"self_attn.sinks has the shape \[3\]; config.json says \[2\]",
        ),
        (
            lambda t: t.update({f"{EXPERTS}.down_proj_blocks": t[f"{EXPERTS}.down_proj_blocks"][:2].clone()}),
            r"down_proj_blocks has the shape \[2, 64, 3, 16\]; config.json says that there are 3 experts",
        ),
        (
            lambda t: t.update({f"{EXPERTS}.down_proj_blocks": t[f"{EXPERTS}.down_proj_blocks"][:, :63].clone()}),
            r"experts.0.down_proj_scales has the shape \[64, 3\]",
        ),
        (
            lambda t: t.update({f"{EXPERTS}.gate_up_proj_bias": torch.ones(3, 191)}),
            r"experts.0.gate_up_proj.bias has the shape \[191\]; config.json says \[192\]",
        ),
    ],
)
def test_gpt_oss_with_damaged_experts_is_refused(change: Any, words: str, gpt_oss: Any) -> None:
    _, folder = gpt_oss
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        load_weights(folder, load_model_config(folder), torch.float32, torch.device("cpu"))
