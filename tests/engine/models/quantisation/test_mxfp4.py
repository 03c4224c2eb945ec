"""MXFP4 is read as transformers reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.dense_source import DenseSource
from multiflora_engine.models.quantisation.dense_sources import dense_sources
from multiflora_engine.models.quantisation.quantisation_config import read_quantisation

NAME = "model.layers.0.mlp.experts.gate_up_proj"


def source(folder: Path, blocks: torch.Tensor, scales: torch.Tensor) -> DenseSource:
    tensors = {f"{NAME}_blocks": blocks, f"{NAME}_scales": scales, f"{NAME}_bias": torch.ones(3, 6)}
    save_file(tensors, folder / "model.safetensors")
    settings = read_quantisation({"quantization_config": {"quant_method": "mxfp4"}}, folder)
    sources = dense_sources(stored_tensors(folder), settings)
    assert sorted(sources) == [NAME, f"{NAME}_bias"]
    return sources[NAME]


def test_experts_equal_those_of_transformers(tmp_path: Path) -> None:
    blocks = torch.randint(0, 256, (3, 6, 2, 16), dtype=torch.uint8)
    scales = torch.randint(100, 140, (3, 6, 2), dtype=torch.uint8)
    found = source(tmp_path, blocks, scales)
    found.check()
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert found.shape == tuple(expected.shape) == (3, 64, 6)
    assert torch.equal(torch.cat(list(found.pieces())).view(found.shape), expected)
    assert found.num_bytes == blocks.numel() + scales.numel()


@pytest.mark.parametrize(
    ("blocks", "scales", "words"),
    [
        ((3, 6, 2, 15), (3, 6, 2), "_blocks has the shape"),
        ((3, 6, 32), (3, 6, 2), "four dimensions"),
        ((3, 6, 2, 16), (3, 6, 1), "_scales has the shape"),
    ],
)
def test_damaged_files_are_refused(
    blocks: tuple[int, ...], scales: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    damaged = source(tmp_path, torch.zeros(blocks, dtype=torch.uint8), torch.zeros(scales, dtype=torch.uint8))
    with pytest.raises(ModelError, match=words):
        damaged.check()
