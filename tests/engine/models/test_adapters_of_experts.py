"""Which files with LoRA on experts and routers are served: a refusal names the tensor; what it takes of the device."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.engine.models.cases import config_of

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.facts import read_facts
from multiflora_adapters.manifest import read_manifest
from multiflora_adapters.mixes.mixing import mix_adapters
from multiflora_adapters.mixes.recipe import Mix, MixPart, mix_digest
from multiflora_adapters.report import AdapterError, ValidationRow
from multiflora_adapters.validation import validate_adapter
from multiflora_adapters.weights import load_adapter

HIDDEN, INNER, COUNT, RANK = 64, 96, 3, 4
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 300,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": COUNT,
}
Change = Callable[[dict[str, torch.Tensor]], object]
Tensors = dict[str, torch.Tensor]
GATE_UP, DOWN = "mlp.experts.base_layer", "mlp.experts"
PARAMETERS = {"target_modules": ["q_proj"], "target_parameters": ["gate_up_proj", "experts.down_proj", "gate.weight"]}
MODULES = {"target_modules": ["q_proj", "w1", "w2", "w3", "gate"]}


def lora(name: str, k: int, n: int, rank: int = RANK) -> Tensors:
    """Of both layers."""
    tensors = {}
    for layer in range(2):
        path = f"base_model.model.model.layers.{layer}.{name}.lora_"
        tensors |= {f"{path}A.weight": torch.ones(rank, k), f"{path}B.weight": torch.ones(n, rank)}
    return tensors


def parameters() -> Tensors:
    """As PEFT writes them today."""
    fused = lora(GATE_UP, HIDDEN, 2 * INNER, COUNT * RANK) | lora(DOWN, INNER, HIDDEN, COUNT * RANK)
    return fused | lora("mlp.gate", HIDDEN, COUNT) | lora("self_attn.q_proj", HIDDEN, HIDDEN)


def modules() -> Tensors:
    """As it wrote them for transformers 4."""
    tensors = lora("self_attn.q_proj", HIDDEN, HIDDEN) | lora("block_sparse_moe.gate", HIDDEN, COUNT)
    for expert in range(COUNT):
        for name, k, n in (("w1", HIDDEN, INNER), ("w3", HIDDEN, INNER), ("w2", INNER, HIDDEN)):
            tensors |= lora(f"block_sparse_moe.experts.{expert}.{name}", k, n)
    return tensors


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return config_of(tmp_path, MIXTRAL).base_model("base", digest="0" * 64)


def saved(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def errors_of(folder: Path, base: BaseModel, max_rank: int = 16) -> list[ValidationRow]:
    return list(validate_adapter(folder, base, max_rank).errors)


@pytest.mark.parametrize(("tensors", "config"), [(parameters(), PARAMETERS), (modules(), MODULES)])
def test_both_forms_pass_and_tell_what_they_take(
    tensors: Tensors, config: dict[str, Any], base: BaseModel, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "adapter", tensors, config)
    report = validate_adapter(folder, base, RANK)
    assert report.ok, report.errors
    assert not [row for row in report.rows if row.severity == "warning"]
    own = 2 * COUNT * RANK * (2 * (HIDDEN + INNER) + INNER + HIDDEN)
    (memory,) = (row for row in report.rows if row.check == "memory")
    assert f"LoRA on experts takes {4 * own} bytes" in memory.message
    assert read_manifest(folder).max_rank == RANK, "not that of all experts together"
    host = load_adapter(folder, base, torch.float32, lambda name: torch.zeros(0))
    tables = 2 * 3 * 2 * (COUNT + 1) * 4
    assert host.own_bytes == 4 * own + tables
    assert host.rank == RANK
    row = sum(site.in_features + site.out_features for site in base.sites.values() if site.layer is not None)
    assert read_facts(folder, base).device_bytes == 4 * (own + RANK * row)


def test_an_adapter_of_experts_alone_takes_one_rank_row(base: BaseModel, tmp_path: Path) -> None:
    tensors = lora(DOWN, INNER, HIDDEN, COUNT * RANK)
    folder = saved(tmp_path / "adapter", tensors, {"target_parameters": ["down_proj"]})
    assert validate_adapter(folder, base, RANK).ok
    assert load_adapter(folder, base, torch.float32, lambda name: torch.zeros(0)).rank == 1
    assert read_manifest(folder).target_modules == ("experts",)


L0 = "base_model.model.model.layers.0"
EXPERT = f"{L0}.block_sparse_moe.experts.1.w2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({f"{L0}.{DOWN}.lora_A.weight": torch.ones(12, 97)}), rf"{DOWN}.lora_A.weight has another"),
        (lambda t: t.update({f"{L0}.{DOWN}.lora_B.weight": torch.ones(63, 12)}), rf"{DOWN}.lora_B.weight has another"),
        (lambda t: t.update({f"{L0}.{GATE_UP}.lora_A.weight": torch.ones(11, 64)}), r"expected \[12, 64\], found \[11"),
        (
            lambda t: t.update({f"{L0}.{GATE_UP}.lora_B.weight": torch.ones(192, 15)}),
            "expected .192, 12., found .192, 15",
        ),
        (lambda t: t.update({f"{L0}.{GATE_UP}.lora_B.weight": torch.ones(192, 12).int()}), "lora_B.weight is I32"),
        (
            lambda t: t.pop(f"{L0}.{DOWN}.lora_B.weight"),
            f"lacks .*layers.0.{DOWN}.lora_B.weight, for .*experts.down_proj",
        ),
        (lambda t: [t.pop(f"{L0}.{GATE_UP}.lora_{x}.weight") for x in "AB"], "lacks .*layers.0.*, for .*gate_up_proj"),
        (
            lambda t: [t.pop(f"{L0}.mlp.gate.lora_{x}.weight") for x in "AB"],
            "no tensors: .*layers.0.block_sparse_moe.gate",
        ),
        (
            lambda t: t.update({f"{L0}.mlp.gate.lora_A.weight": torch.ones(4, 65)}),
            "gate.lora_A.weight has another shape",
        ),
        (lambda t: t.update({f"{L0}.mlp.experts.base_layer.base_layer.lora_A.weight": torch.ones(12, 64)}), "neither"),
        (
            lambda t: t.update({f"{L0}.mlp.experts.lora_magnitude_vector": torch.ones(64)}),
            "of a mixture's parts that neither",
        ),
        (
            lambda t: t.update({f"{L0}.mlp.experts.1.bias": torch.ones(64)}),
            "of a mixture's parts that neither .*experts.1",
        ),
        (
            lambda t: t.update({f"{L0}.mlp.gate.bias": torch.ones(3)}),
            "block_sparse_moe.gate has tensors that .*gate.bias",
        ),
        (
            lambda t: t.update(
                {f"{EXPERT}.lora_A.weight": torch.ones(4, 96), f"{EXPERT}.lora_B.weight": torch.ones(64, 4)}
            ),
            "experts.1.w2 have LoRA of their own and with all experts",
        ),
    ],
)
def test_parameters_that_do_not_fit(change: Change, words: str, base: BaseModel, tmp_path: Path) -> None:
    tensors = parameters()
    change(tensors)
    rows = errors_of(saved(tmp_path / "adapter", tensors, PARAMETERS), base)
    assert any(re.search(words, row.message) for row in rows), rows
    assert "internal" not in {row.check for row in rows}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.update({f"{EXPERT}.lora_A.weight": torch.ones(4, 95)}),
            "experts.1.w2.lora_A.weight has another shape",
        ),
        (
            lambda t: t.update({f"{EXPERT}.lora_B.weight": torch.ones(65, 4)}),
            "experts.1.w2.lora_B.weight has another shape",
        ),
        (lambda t: t.pop(f"{EXPERT}.lora_B.weight"), "experts.1.w2 lacks lora_B"),
        (lambda t: [t.pop(f"{EXPERT}.lora_{x}.weight") for x in "AB"], "no tensors: .*experts.1.w2"),
        (lambda t: t.update(lora("block_sparse_moe.experts.3.w2", INNER, HIDDEN)), "neither .*experts.3.w2"),
        (lambda t: t.update(lora("block_sparse_moe.experts.0.w4", INNER, HIDDEN)), "neither .*experts.0.w4"),
        (lambda t: t.update({f"{EXPERT}.lora_magnitude_vector": torch.ones(64)}), "experts.1.w2 has tensors that"),
        (lambda t: t.update({f"{EXPERT}.bias": torch.ones(64)}), "experts.1.w2 has tensors that"),
        (lambda t: t.update({f"{EXPERT}.lora_A.weight": torch.full((4, 96), torch.nan)}), "NaN or infinity"),
    ],
)
def test_modules_that_do_not_fit(change: Change, words: str, base: BaseModel, tmp_path: Path) -> None:
    tensors = modules()
    change(tensors)
    rows = errors_of(saved(tmp_path / "adapter", tensors, MODULES), base)
    assert any(re.search(words, row.message) for row in rows), rows


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"target_parameters": None}, "neither adapter_config.json nor the base names"),
        ({"target_parameters": ["gate_up_proj"]}, "neither adapter_config.json nor the base names"),
        ({"target_parameters": ["w1"]}, "names no parameter of the base"),
        ({"target_parameters": "down_proj"}, "target_parameters"),
        ({"target_parameters": [3]}, "target_parameters"),
        ({"use_dora": True}, "use_dora beside target_parameters, which PEFT does not load either"),
        ({"lora_bias": True}, "lora_bias beside target_parameters"),
        ({"rank_pattern": {"gate_up_proj": 5}}, "expected .15, 64., found .12, 64"),
        ({"rank_pattern": {"mlp.gate.weight": 5}}, "block_sparse_moe.gate has another rank"),
        ({"rank_pattern": {"(": 5}}, "is invalid"),
    ],
)
def test_configurations_that_do_not_belong_to_the_file(
    config: dict[str, Any], words: str, base: BaseModel, tmp_path: Path
) -> None:
    rows = errors_of(saved(tmp_path / "adapter", parameters(), {**PARAMETERS, **config}), base)
    assert any(re.search(words, row.message) for row in rows), rows
    assert "internal" not in {row.check for row in rows}


def test_biases_of_experts_are_refused_by_name(base: BaseModel, tmp_path: Path) -> None:
    tensors = lora("block_sparse_moe.experts.1.w2", INNER, HIDDEN)
    for layer in range(2):
        tensors[f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.1.w2.lora_B.bias"] = torch.ones(HIDDEN)
    config = {"target_modules": ["experts.1.w2"], "lora_bias": True}
    first, second = errors_of(saved(tmp_path / "adapter", tensors, config), base)
    assert "layers.0.block_sparse_moe.experts.1.w2.lora_B.bias is a bias of an expert" in first.message
    assert "layers.1." in second.message


def test_the_limit_is_that_of_each_expert(base: BaseModel, tmp_path: Path) -> None:
    (row,) = errors_of(saved(tmp_path / "adapter", parameters(), PARAMETERS), base, max_rank=RANK - 1)
    assert row.check == "rank"
    assert row.hint == f"Start the server with --max-lora-rank {RANK}."


def test_square_parameters_are_ambiguous(tmp_path: Path) -> None:
    """Which of PEFT's two readings a file is of shows in its shapes, where those differ."""
    base = config_of(tmp_path, {**MIXTRAL, "intermediate_size": HIDDEN // 2}).base_model("base", digest="0" * 64)
    tensors = lora(DOWN, HIDDEN, HIDDEN, COUNT * RANK)
    rows = errors_of(saved(tmp_path / "adapter", tensors, {"target_parameters": ["gate_up_proj"]}), base)
    assert "gate_up_proj is square (64 x 64)" in rows[0].message
    assert rows[0].hint


def test_zeros_in_every_b_are_told(base: BaseModel, tmp_path: Path) -> None:
    tensors = lora(DOWN, INNER, HIDDEN, COUNT * RANK)
    empty = {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in tensors.items()}
    report = validate_adapter(saved(tmp_path / "adapter", empty, {"target_parameters": ["down_proj"]}), base, RANK)
    assert "Every B is zero" in next(row.message for row in report.rows if row.severity == "warning")


def test_a_mix_of_experts_is_refused(base: BaseModel, tmp_path: Path) -> None:
    folder = saved(tmp_path / "adapter", parameters(), PARAMETERS)
    part = load_adapter(folder, base, torch.float32, lambda name: torch.zeros(0))
    mix = Mix((MixPart(part.digest, 0.5),))
    with pytest.raises(AdapterError, match="has LoRA on experts and cannot be part of a mix"):
        mix_adapters(mix_digest(mix), mix, [part], base, torch.float32, 16)
