"""Every key of a served family's configuration class is read, refused, or without effect in transformers too."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    Olmo3Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError

FAMILIES = [
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Phi3Config,
    Starcoder2Config,
    StableLmConfig,
    GraniteConfig,
    SmolLM3Config,
    MixtralConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    GptOssConfig,
    Olmo2Config,
    Olmo3Config,
    CohereConfig,
    Cohere2Config,
    GlmConfig,
    Glm4Config,
    GemmaConfig,
    Gemma2Config,
    Gemma3TextConfig,
]
WINDOWED = [
    MistralConfig,
    GptOssConfig,
    Olmo3Config,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
]  # whatever a switch says
OWN_KEYS = {
    PhiConfig: "PhiForCausalLM",
    OPTConfig: "OPTForCausalLM",
    FalconConfig: "FalconForCausalLM",
    BloomConfig: "BloomForCausalLM",
    MptConfig: "MPTForCausalLM",
}
# Listed as without effect: values that would be seen if they had one.
WITHOUT_EFFECT: dict[str, Any] = {
    "attention_dropout": 0.9, "initializer_range": 0.9, "chunk_size_feed_forward": 2, "pretraining_tp": 2,
    "is_decoder": False, "is_encoder_decoder": True, "add_cross_attention": True, "tie_last_hidden_states": True,
    "pad_token_id": 7, "sep_token_id": 5, "decoder_start_token_id": 5, "tie_encoder_decoder": True,
    "output_hidden_states": True, "problem_type": "regression", "id2label": {"0": "a"}, "label2id": {"a": 0},
    "temperature": 0.1, "repetition_penalty": 9.0, "num_beams": 3, "use_mrope": True, "torchscript": True,
    "use_cache": False, "gradient_checkpointing": True, "model_max_length": 4,
}  # fmt: skip
IGNORED_BY_SOME = {
    LlamaConfig: {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    MistralConfig: {"attention_bias": True, "mlp_bias": True},
    Qwen2Config: {"attention_bias": True, "mlp_bias": True},
    Qwen3Config: {"mlp_bias": True},
    MixtralConfig: {"attention_bias": True, "use_sliding_window": True, "max_window_layers": 1},
    Qwen2MoeConfig: {"attention_bias": True, "mlp_bias": True},
    Qwen3MoeConfig: {"mlp_bias": True},
    GptOssConfig: {"mlp_bias": True, "use_sliding_window": True, "max_window_layers": 1},
    Phi3Config: {"attention_bias": True, "mlp_bias": True, "embd_pdrop": 0.9, "resid_pdrop": 0.9},
    Starcoder2Config: {"attention_bias": True, "mlp_bias": True, "use_sliding_window": True, "max_window_layers": 1},
    StableLmConfig: {"attention_bias": True, "sliding_window": 8},
    GraniteConfig: {"sliding_window": 8},
    SmolLM3Config: {"max_window_layers": 1},
    Olmo2Config: {"mlp_bias": True, "sliding_window": 8},
    Olmo3Config: {"mlp_bias": True, "use_sliding_window": True, "max_window_layers": 1},
    CohereConfig: {"mlp_bias": True, "sliding_window": 8},
    Cohere2Config: {"mlp_bias": True, "use_sliding_window": True, "max_window_layers": 1},
    GlmConfig: {"mlp_bias": True, "sliding_window": 8},
    Glm4Config: {"mlp_bias": True, "sliding_window": 8},
    GemmaConfig: {"mlp_bias": True, "sliding_window": 8},
    Gemma2Config: {"mlp_bias": True, "use_sliding_window": True, "max_window_layers": 1},
    Gemma3TextConfig: {"mlp_bias": True, "use_sliding_window": True, "max_window_layers": 1},
}


@pytest.fixture(scope="module")
def made() -> dict[Any, tuple[Any, Path]]:
    """Of each family the model in transformers and its folder, made for the first test that asks."""
    return {}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def saved(request: Any, made: Any, tiny_config: Any, save_model: Any, tmp_path: Path) -> tuple[Any, Any, Path]:
    """A family, its model, and a folder of it that the test may change."""
    if request.param not in made:
        made[request.param] = save_model(tiny_config(request.param))
    model, original = made[request.param]
    return request.param, model, shutil.copytree(original, tmp_path / "changed")


def change(folder: Path, **changes: Any) -> ModelConfig:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return load_model_config(folder)


def test_every_key_of_the_class_is_known(saved: Any) -> None:
    config_class, _, folder = saved
    names = {field.name for field in fields(config_class)} | config_class().to_dict().keys()
    raw = json.loads((folder / "config.json").read_text())
    unknown = {name: raw.get(name, config_class().to_dict().get(name)) for name in names}
    unknown = {name: value for name, value in unknown.items() if name not in ("layer_types", "dtype")}
    assert change(folder, **unknown).warnings == ()


@pytest.mark.parametrize("config_class", OWN_KEYS, ids=lambda family: family.__name__)
def test_every_key_of_a_family_with_words_of_its_own_is_known(
    config_class: Any, tiny_config: Any, tmp_path: Path
) -> None:
    values = tiny_config(config_class).to_dict()
    raw = {
        name: value
        for name, value in values.items()
        if not isinstance(value, dict) or name in ("rope_parameters", "attn_config")
    }
    raw = {name: value for name, value in raw.items() if name in {field.name for field in fields(config_class)}}
    (tmp_path / "config.json").write_text(json.dumps({**raw, "architectures": [OWN_KEYS[config_class]]}))
    assert load_model_config(tmp_path).warnings == ()


def test_what_is_listed_as_without_effect_has_none_in_transformers(saved: Any) -> None:
    config_class, model, folder = saved
    tokens = torch.arange(48)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        before = load_model_config(folder)
        ignored = IGNORED_BY_SOME[config_class]
        after = change(folder, **WITHOUT_EFFECT, **ignored)
        found = AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits
    assert torch.equal(found, expected)
    shared = [name for name in ModelConfig.__dataclass_fields__ if name not in ("warnings", "generation_defaults")]
    assert [getattr(after, name) for name in shared] == [getattr(before, name) for name in shared]
    named = {name for name in ignored if "pdrop" not in name}
    assert {name for name in named if any(f"{name} has no effect" in line for line in after.warnings)} == named


def test_an_unknown_key_is_a_warning_with_its_name(saved: Any) -> None:
    _, _, folder = saved
    (warning,) = change(folder, altup_num_inputs=4, rope_scaling={"rope_type": "default", "alpha": 9}).warnings
    assert "altup_num_inputs" in warning
    assert "rope_scaling.alpha" in warning
    assert "ignored" in warning


@pytest.mark.parametrize(
    "changes",
    [
        {"is_causal": False},
        {"attention_chunk_size": 8},
        {"per_layer_config": {"0": {"rms_norm_eps": 0.5}}},
        {"layer_types": ["chunked_attention", "full_attention"]},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": None},
        {"use_sliding_window": False, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
    ],
    ids=str,
)
def test_what_changes_the_mathematics_is_refused(changes: dict[str, Any], saved: Any) -> None:
    config_class, _, folder = saved
    if config_class in WINDOWED and "use_sliding_window" in changes:
        assert change(folder, **changes).sliding_windows == (8, None)
        return
    with pytest.raises(ModelError, match=next(key for key in changes if key != "use_sliding_window")):
        change(folder, **changes)


def test_part_of_a_head_turns_only_where_the_family_does_so(saved: Any) -> None:
    config_class, _, folder = saved
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    if config_class in (Phi3Config, StableLmConfig, GlmConfig, Glm4Config):
        found = change(folder, rope_parameters=rope)
        assert found.ropes[0].rotary_dim == found.head_dim // 2
    else:
        parameters = {"sliding_attention": rope} if config_class in (Gemma3TextConfig, Olmo3Config) else rope
        with pytest.raises(ModelError, match="turns whole heads"):
            change(folder, rope_parameters=parameters)


def test_a_null_for_the_key_value_heads_means_as_many_as_heads(saved: Any) -> None:
    assert change(saved[2], num_key_value_heads=None).num_kv_heads == 2
