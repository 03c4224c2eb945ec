"""Eight bits with scales beyond the fixtures: DeepSeek's and per-tensor FP8, zero points, and damaged files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES, Tensors, changed, load, refusal

Q = "model.layers.0.self_attn.q_proj"
FP8 = {"quant_method": "fp8", "config_groups": None, "format": None, "ignore": None}


def test_deepseeks_blocks_are_the_same_product_under_another_name(tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("_scale")]:
            tensors[f"{name}_inv"] = tensors.pop(name).float()

    found = load(changed("ct-fp8-block", tmp_path, rename, **FP8, weight_block_size=[32, 32]))
    assert torch.equal(found.base_weight(Q), load(FIXTURES / "ct-fp8-block").base_weight(Q))
    assert "weight_scale_inv has the shape" in refusal(
        changed("ct-fp8-block", tmp_path, rename, **FP8, weight_block_size=[128, 128])
    )


def test_blocks_that_do_not_divide_a_weight(tmp_path: Path) -> None:
    """The last block of each row of blocks is smaller."""
    scales = torch.tensor([[1.0, 2.0], [4.0, 8.0]])

    def cut(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("proj.weight_scale")]:
            outputs, inputs = tensors[name.removesuffix("_scale")].shape
            tensors[f"{name}_inv"] = torch.ones(-(-outputs // 48), -(-inputs // 48))
            tensors.pop(name)
        tensors[f"{Q}.weight_scale_inv"] = scales
        tensors[f"{Q}.weight"] = torch.ones(64, 64).to(torch.float8_e4m3fn)

    found = load(changed("ct-fp8-block", tmp_path, cut, **FP8, weight_block_size=[48, 48])).base_weight(Q)
    assert torch.equal(found, scales.repeat_interleave(48, 0).repeat_interleave(48, 1)[:64, :64])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_scale_for_a_tensor(shape: tuple[int, ...], tmp_path: Path) -> None:
    def reshape(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("_scale")]:
            tensors[name] = tensors[name].float().view(shape)

    found = load(changed("ct-fp8-static", tmp_path, reshape, **FP8, activation_scheme="static"))
    assert torch.equal(found.base_weight(Q), load(FIXTURES / "ct-fp8-static").base_weight(Q))


def test_zero_points_of_eight_bits(tmp_path: Path) -> None:
    zeros = torch.arange(64, dtype=torch.int8)[:, None] - 32
    moved = changed("ct-w8a8", tmp_path, lambda t: t.update({f"{Q}.weight_zero_point": zeros}))
    scales = (load(FIXTURES / "ct-w8a8").base_weight(Q) - load(moved).base_weight(Q)) / zeros
    assert torch.allclose(scales[:32], scales[:32, :1].expand(32, 64), rtol=1e-2)


@pytest.mark.parametrize(
    ("fixture", "damage", "words"),
    [
        ("ct-w8a8", lambda t: t.pop(f"{Q}.weight_scale"), rf"lacks {Q}\.weight_scale, but has {Q}\.weight"),
        (
            "ct-w8a8",
            lambda t: t.update({f"{Q}.weight_scale": torch.ones(63, 1)}),
            r"weight_scale has the shape \[63, 1\]",
        ),
        (
            "ct-w8a8",
            lambda t: t.update({f"{Q}.weight": t[f"{Q}.weight"].to(torch.uint8)}),
            "weight is U8; it has to be I8",
        ),
        ("ct-fp8-block", lambda t: t.update({f"{Q}.weight_scale": torch.ones(2, 3)}), r"\[2, 3\]; \[2, 2\] belongs"),
        ("bnb-int8", lambda t: t.update({f"{Q}.SCB": torch.ones(9)}), r"SCB has the shape \[9\]"),
        (
            "bnb-int8",
            lambda t: t.update({f"{Q}.weight_format": torch.tensor(2, dtype=torch.uint8)}),
            "weight_format is not 0",
        ),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(fixture: str, damage: Any, words: str, tmp_path: Path) -> None:
    message = refusal(changed(fixture, tmp_path, damage))
    assert re.search(words, message), message
    assert Q in message
