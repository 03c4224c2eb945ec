"""compressed-tensors beyond the fixtures: inputs out of order, several groups of settings, and damaged files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES, Tensors, changed, load, refusal

Q = "model.layers.0.self_attn.q_proj"


def test_groups_out_of_order_are_those_that_weight_g_idx_says(tmp_path: Path) -> None:
    """The second half of the inputs with the first half's scales, and the other way round."""

    def swap(tensors: Tensors) -> None:
        tensors[f"{Q}.weight_scale"] = tensors[f"{Q}.weight_scale"].flip(1).contiguous()
        tensors[f"{Q}.weight_g_idx"] = 1 - torch.arange(64, dtype=torch.int32) // 32

    found = load(changed("ct-w4a16", tmp_path, swap)).base_weight(Q)
    assert torch.equal(found, load(FIXTURES / "ct-w4a16").base_weight(Q))


def test_tensors_that_no_form_knows_are_not_passed_over(tmp_path: Path) -> None:
    """Scales of activations are left; something that the weight's inputs might be multiplied by is not."""
    known = changed("ct-w4a16", tmp_path, lambda t: t.update({f"{Q}.input_global_scale": torch.ones(1)}))
    assert torch.equal(load(known).base_weight(Q), load(FIXTURES / "ct-w4a16").base_weight(Q))
    unknown = changed("ct-w4a16", tmp_path, lambda t: t.update({f"{Q}.pre_quant_scale": torch.ones(64)}))
    assert f"does not account for: {Q}.pre_quant_scale" in refusal(unknown)


def test_groups_of_settings_by_patterns(tmp_path: Path) -> None:
    """The first group that names a linear holds for it; one that none names must be plain."""
    groups = json.loads((FIXTURES / "ct-w4a16" / "config.json").read_text())["quantization_config"]["config_groups"]
    of_all = groups["group_0"]
    mlp, attention = {**of_all, "targets": ["re:.*mlp.*"]}, {**of_all, "targets": [r"re:.*self_attn\..*"]}
    both = changed("ct-w4a16", tmp_path, config_groups={"a": mlp, "b": attention})
    assert torch.equal(load(both).base_weight(Q), load(FIXTURES / "ct-w4a16").base_weight(Q))
    message = refusal(changed("ct-w4a16", tmp_path, config_groups={"a": mlp}))
    assert "q_proj is quantised, but config.json's" in message or "self_attn" in message
    assert "leaves it out" in refusal(changed("ct-w4a16", tmp_path, ignore=["lm_head", Q]))


@pytest.mark.parametrize(
    ("fixture", "damage", "words"),
    [
        ("ct-w4a16", lambda t: t.pop(f"{Q}.weight_shape"), r"lacks \S+weight_shape"),
        ("ct-w4a16", lambda t: t.update({f"{Q}.weight_shape": torch.tensor([64, 60])}), "do not divide its 60 inputs"),
        (
            "ct-w4a16",
            lambda t: t.update({f"{Q}.weight_shape": torch.tensor([64, 128])}),
            r"weight_packed has the shape",
        ),
        ("ct-w4a16", lambda t: t.update({f"{Q}.weight_shape": torch.tensor([0, -1])}), "weight_shape is 0, -1"),
        (
            "ct-w4a16",
            lambda t: t.update({f"{Q}.weight_shape": torch.tensor([64])}),
            r"weight_shape has the shape \[1\]",
        ),
        (
            "ct-w4a16",
            lambda t: t.update({f"{Q}.weight_scale": torch.ones(64, 3)}),
            r"weight_scale has the shape \[64, 3\]",
        ),
        (
            "ct-w4a16",
            lambda t: t.update({f"{Q}.weight_g_idx": torch.full((64,), 2, dtype=torch.int32)}),
            "weight_g_idx names groups from 2 to 2; there are 2",
        ),
        ("ct-w4a16-asym", lambda t: t.pop(f"{Q}.weight_zero_point"), r"lacks \S+weight_zero_point"),
        (
            "ct-w4a16-asym",
            lambda t: t.update({f"{Q}.weight_zero_point": torch.zeros(7, 2, dtype=torch.int32)}),
            r"weight_zero_point has the shape \[7, 2\]; \[8, 2\]",
        ),
        (
            "ct-nvfp4a16",
            lambda t: t.update({f"{Q}.weight_global_scale": torch.zeros(1)}),
            "global_scale is not positive",
        ),
        ("ct-nvfp4a16", lambda t: t.pop(f"{Q}.weight_global_scale"), r"lacks \S+weight_global_scale"),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(fixture: str, damage: Any, words: str, tmp_path: Path) -> None:
    message = refusal(changed(fixture, tmp_path, damage))
    assert re.search(words, message), message
    assert Q in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"format": "marlin-24", "config_groups": {"a": {"targets": ["Linear"], "weights": {"type": "int"}}}},
            "'marlin-24'",
        ),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        ({"config_groups": [1]}, "config_groups has to be"),
        ({"config_groups": {"a": {"weights": 4}}}, "weights has to be an object"),
        ({"ignore": ["re:("]}, "is no pattern"),
        ({"ignore": "lm_head"}, "ignore has to be a list"),
    ],
)
def test_settings_that_are_not_served_are_refused_by_name(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(changed("ct-w4a16", tmp_path, **settings))
