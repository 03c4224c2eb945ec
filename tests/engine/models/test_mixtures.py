"""Mixtures of experts: what config.json may say, checkpoints that lack an expert, how experts are kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engine.models.cases import config_of, refusal_of
from transformers import MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

from multiflora_adapters.base_model import Site
from multiflora_engine.build import without_graphs
from multiflora_engine.models.allocation import allocate_weights
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.weights import MixtureWeights, ModelWeights
from multiflora_engine.protocol.config import EngineConfig
from multiflora_kernels.linear.quantised import INT8, IntegerForm, QuantisedWeight

BASE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SIZES = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 40}


def load(folder: Path, **changes: Any) -> ModelConfig:
    """A config with changes; a value of ... removes the key."""
    return config_of(folder, {**BASE, **changes})


def refusal(folder: Path, **changes: Any) -> str:
    return refusal_of(folder, {**BASE, **changes})


QWEN2_MOE = {"architectures": ["Qwen2MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2}
QWEN3_MOE = {**QWEN2_MOE, "architectures": ["Qwen3MoeForCausalLM"]}
MIXTRAL = {"architectures": ["MixtralForCausalLM"]}


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [
        (QWEN3_MOE, {0, 1, 2, 3}),
        ({**QWEN3_MOE, "decoder_sparse_step": 2}, {1, 3}),
        ({**QWEN2_MOE, "mlp_only_layers": [1, 2]}, {0, 3}),
        ({**QWEN2_MOE, "num_experts": 0}, set()),
        (MIXTRAL, {0, 1, 2, 3}),
    ],
)
def test_sparse_layers(changes: dict[str, Any], sparse: set[int], tmp_path: Path) -> None:
    config = load(tmp_path, **changes, num_hidden_layers=4)
    assert {layer for layer in range(4) if config.mixture(layer) is not None} == sparse


def test_both_words_for_the_number_of_experts(tmp_path: Path) -> None:
    for family in (QWEN3_MOE, MIXTRAL):
        for word in ("num_experts", "num_local_experts"):
            mixture = load(tmp_path, **{**family, "num_experts": ..., word: 5}).mixture(0)
            assert mixture is not None
            assert mixture.num_experts == 5


def test_files_of_the_hub_cause_no_warnings(tmp_path: Path) -> None:
    """Keys of Qwen3-30B-A3B and Mixtral-8x7B, where they are not those of every model."""
    routing = {"output_router_logits": False, "router_aux_loss_coef": 0.001, "tie_word_embeddings": False}
    windows = {"max_window_layers": 48, "sliding_window": None, "use_sliding_window": False}
    hub = {**routing, **windows, "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
    assert load(tmp_path, **QWEN3_MOE, **hub, moe_intermediate_size=40, attention_bias=False).warnings == ()
    assert load(tmp_path, **MIXTRAL, **routing, num_local_experts=8, sliding_window=None).warnings == ()


def test_windows_of_qwen2_moe_are_not_those_of_qwen2(tmp_path: Path) -> None:
    window = {"use_sliding_window": True, "sliding_window": 32, "num_hidden_layers": 4, "max_window_layers": 3}
    assert load(tmp_path, **QWEN2_MOE, **window).sliding_windows == (32, None, 32, None)
    assert load(tmp_path, **QWEN3_MOE, **window).sliding_windows == (32, 32, 32, 32)
    assert load(tmp_path, **QWEN2_MOE, sliding_window=0).sliding_windows == (None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({**QWEN3_MOE, "num_experts_per_tok": 5}, "num_experts_per_tok is 5, but there are 4 experts"),
        ({**MIXTRAL, "num_experts_per_tok": 0}, "num_experts_per_tok is '0'; it has to be a positive integer"),
        ({**QWEN2_MOE, "mlp_only_layers": [True]}, "mlp_only_layers .* a list of integers"),
        ({**QWEN2_MOE, "mlp_only_layers": 3}, "mlp_only_layers .* a list of integers"),
        ({**QWEN2_MOE, "decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({**QWEN2_MOE, "norm_topk_prob": 1}, "norm_topk_prob .* true or false"),
        ({**QWEN2_MOE, "num_experts": "many"}, "num_experts is 'many'"),
        ({**MIXTRAL, "hidden_act": "relu"}, "relu"),
    ],
)
def test_impossible_mixtures(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert re.search(words, refusal(tmp_path, **changes))


def weights_of(folder: Path) -> ModelWeights:
    return load_weights(folder, load_model_config(folder), torch.float32, torch.device("cpu"))


def change_tensors(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(("config_class", "up"), [(MixtralConfig, "w3"), (Qwen3MoeConfig, "up_proj")])
def test_every_expert_lands_in_its_place(config_class: Any, up: str, tiny_config: Any, save_model: Any) -> None:
    values = {} if config_class is MixtralConfig else SIZES
    model, folder = save_model(tiny_config(config_class, **values))
    weights = weights_of(folder)
    for layer, stored in zip(weights.layers, model.model.layers, strict=True):
        assert isinstance(layer.mlp, MixtureWeights)
        for index, expert in enumerate(layer.mlp.experts):
            assert torch.equal(expert.up.weight.dequantised_rows(0, 2 * 96), stored.mlp.experts.gate_up_proj[index])
            assert torch.equal(expert.down.weight.dequantised_rows(0, 64), stored.mlp.experts.down_proj[index])
    names = load_file(folder / "model.safetensors")
    site = next(name for name in names if name.endswith(f".2.{up}.weight")).removesuffix(".weight")
    assert torch.equal(weights.base_weight(site), names[f"{site}.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.layers.1.mlp.experts.2.down_proj.weight"), "lacks model.layers.1.mlp.experts.2.down"),
        (lambda t: t.pop("model.layers.0.mlp.gate.weight"), "lacks model.layers.0.mlp.gate.weight"),
        (lambda t: t.pop("model.layers.0.mlp.shared_expert_gate.weight"), "lacks .*shared_expert_gate"),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.3.up_proj.weight": torch.ones(40, 64)}),
            "does not account for: model.layers.1.mlp.experts.3",
        ),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.0.up_proj.weight": torch.ones(41, 64)}),
            r"experts.0.up_proj.weight has the shape \[41, 64\]; config.json says \[40, 64\]",
        ),
    ],
)
def test_a_mixture_with_parts_missing_is_refused(change: Any, words: str, tiny_config: Any, save_model: Any) -> None:
    _, folder = save_model(tiny_config(Qwen2MoeConfig, **SIZES, shared_expert_intermediate_size=24))
    change_tensors(folder, change)
    with pytest.raises(ModelError, match=words):
        weights_of(folder)


def save_fused(model: Any, folder: Path) -> Path:
    """As transformers 5 has the tensors in memory, all experts of a layer in one."""
    model.save_pretrained(folder, save_original_format=False)
    assert "model.layers.1.mlp.experts.gate_up_proj" in load_file(folder / "model.safetensors")
    return folder


FUSED = [
    (MixtralConfig, {"num_local_experts": 3}),
    (Qwen2MoeConfig, {**SIZES, "shared_expert_intermediate_size": 24, "mlp_only_layers": [0]}),
    (Qwen3MoeConfig, SIZES),
]


@pytest.mark.parametrize(("config_class", "values"), FUSED)
def test_fused_experts_are_those_of_files_with_a_tensor_for_each(
    config_class: Any, values: dict[str, Any], tiny_config: Any, save_model: Any, tmp_path: Path
) -> None:
    model, folder = save_model(tiny_config(config_class, **values))
    expected = weights_of(folder).targets()
    fused = save_fused(model, tmp_path / "fused")
    for found in (fused, without_head(fused)):
        targets = weights_of(found).targets()
        assert targets.keys() == expected.keys()
        assert all(torch.equal(targets[name].tensor, expected[name].tensor) for name in targets)


def without_head(folder: Path) -> Path:
    """The decoder alone, as base models are saved: no name begins with "model."."""

    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        for name in [*tensors]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    found = folder.with_name("decoder")
    shutil.copytree(folder, found)
    change_tensors(found, shorten)
    return found


GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(GATE_UP), r"lacks model.layers.1.block_sparse_moe.experts.0.w1"),
        (
            lambda t: t.update({GATE_UP: torch.ones(3, 191, 64)}),
            r"experts.gate_up_proj has the shape \[3, 191, 64\]; config.json says \[3, 192, 64\]",
        ),
        (lambda t: t.update({GATE_UP: t[GATE_UP].mT.contiguous()}), r"has the shape \[3, 64, 192\]"),
        (lambda t: t.update({GATE_UP: t[GATE_UP].to(torch.int8)}), r"experts.0.w1.weight is I8"),
        (
            lambda t: t.update({"model.layers.1.block_sparse_moe.experts.2.w3.weight": torch.ones(96, 64)}),
            r"block_sparse_moe.experts.2.w3.weight, and model.layers.1.mlp.experts.gate_up_proj, which is the same",
        ),
        (
            lambda t: t.update({"model.layers.1.block_sparse_moe.gate.weight": torch.ones(3, 64)}),
            r"block_sparse_moe.gate.weight, and model.layers.1.mlp.gate.weight, which is the same",
        ),
        (lambda t: t.update({"model.layers.2.mlp.experts.down_proj": torch.ones(3, 64, 96)}), r"does not account for"),
    ],
)
def test_fused_experts_that_do_not_fit_are_refused(
    change: Any, words: str, tiny_config: Any, save_model: Any, tmp_path: Path
) -> None:
    model, _ = save_model(tiny_config(MixtralConfig, num_local_experts=3))
    folder = save_fused(model, tmp_path / "fused")
    change_tensors(folder, change)
    with pytest.raises(ModelError, match=words):
        weights_of(folder)


@pytest.mark.parametrize(
    ("narrow", "is_eager"),
    [("no expert", False), ("experts.", False), ("experts.1.", True), ("experts.2.down", True)],
)
def test_graphs_need_experts_that_are_kept_alike(narrow: str, is_eager: bool, tmp_path: Path) -> None:
    """Else they are multiplied one by one, by counts that the host must know."""
    model = load(tmp_path, **QWEN3_MOE, num_hidden_layers=1, moe_intermediate_size=64)

    def form_of(sites: Sequence[Site]) -> IntegerForm | None:
        return INT8 if narrow in sites[0].name else None

    weights = allocate_weights(model, torch.float32, torch.device("meta"), form_of)
    config = EngineConfig(model_path="", artifact_root="")
    assert without_graphs(config, model, weights).enforce_eager == is_eager


@pytest.mark.parametrize("form", [None, INT8], ids=str)
def test_experts_are_views_of_what_kernels_read(form: IntegerForm | None, tmp_path: Path) -> None:
    """Weights and biases, so that both ways through a layer have the same values."""
    sizes = {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 16, "num_hidden_layers": 1}
    model = load(tmp_path, architectures=["GptOssForCausalLM"], **sizes)
    mlp = allocate_weights(model, torch.float32, torch.device("cpu"), lambda sites: form).layers[0].mlp
    assert isinstance(mlp, MixtureWeights)
    for stack, experts in ((mlp.up, [e.up for e in mlp.experts]), (mlp.down, [e.down for e in mlp.experts])):
        assert stack is not None
        assert stack.bias is not None
        parts = stack.weight.tensors if isinstance(stack.weight, QuantisedWeight) else (stack.weight.tensor,)
        for number, expert in enumerate(experts):
            assert expert.bias is not None
            own = expert.weight.tensors if isinstance(expert.weight, QuantisedWeight) else (expert.weight.tensor,)
            for part in (*own, expert.bias):
                part.fill_(number)
        for part in (*parts, stack.bias):
            assert part.view(3, -1).float().mean(1).tolist() == [0, 1, 2]
