"""config.json of every family in every spelling, what is refused and why, digests, and hub names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from tests.engine.models.cases import config_of, refusal_of
from transformers import (
    Cohere2Config,
    CohereConfig,
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
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.hub import resolve_model
from multiflora_engine.models.rotary import inverse_frequencies

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32}
FAMILIES = [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, Phi3Config]
FAMILIES += [MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig, GptOssConfig]
FAMILIES += [Starcoder2Config, StableLmConfig, GraniteConfig, SmolLM3Config, Olmo2Config, Olmo3Config]
FAMILIES += [CohereConfig, Cohere2Config]
FAMILIES += [GlmConfig, Glm4Config, GemmaConfig, Gemma2Config, Gemma3TextConfig]


def load(folder: Path, **changes: Any) -> ModelConfig:
    """Llama's config with changes; a value of ... removes the key."""
    return config_of(folder, {**LLAMA, **changes})


def refusal(folder: Path, **changes: Any) -> str:
    return refusal_of(folder, {**LLAMA, **changes})


@pytest.mark.parametrize("config_class", FAMILIES)
@pytest.mark.parametrize("values", [{}, {"head_dim": 48}, {"attention_bias": True}])
def test_sites_are_the_modules_of_transformers(
    config_class: Any, values: Any, tiny_config: Any, tmp_path: Path
) -> None:
    """Names, sizes and biases of every linear and embedding; to transformers, routers are neither."""
    values = {} if config_class in (Phi3Config, StableLmConfig) else values
    config = tiny_config(config_class, **values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(tmp_path)
    loaded = load_model_config(tmp_path)
    (tmp_path / "model.safetensors").touch()
    expected = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            expected[name] = (module.in_features, module.out_features, module.bias is not None)
        elif isinstance(module, torch.nn.Embedding):
            expected[name] = (module.num_embeddings, module.embedding_dim, False)
    base = loaded.base_model("x")
    sites = {name: site for name, site in base.sites.items() if name not in base.routers}
    assert {name: (site.in_features, site.out_features, site.has_bias) for name, site in sites.items()} == expected
    assert sites["model.embed_tokens"].kind == "embedding"
    assert [site.layer for site in sites.values() if "layers.1." in site.name] == [1] * ((len(sites) - 2) // 2)


@pytest.mark.parametrize("config_class", FAMILIES)
def test_a_linear_reaches_the_kv_where_gradients_say_so(config_class: Any, tiny_config: Any, tmp_path: Path) -> None:
    """In the last layer queries, output and MLP do not, nor does the head."""
    few = {"num_experts": 4, "num_experts_per_tok": 2} if config_class in (Qwen2MoeConfig, Qwen3MoeConfig) else {}
    config = tiny_config(config_class, tie_word_embeddings=False, **few)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    config.architectures = [type(model).__name__]
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    cache = model(torch.arange(9)[None], use_cache=True).past_key_values
    sum((layer.keys * layer.values).sum() for layer in cache.layers).backward()
    base = load_model_config(tmp_path).base_model("x")
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    reaching = {name for name, linear in linears.items() if linear.weight.grad is not None and linear.weight.grad.any()}
    sites = {name for name, site in base.sites.items() if site.reaches_kv}
    assert sites & linears.keys() == reaching
    assert linears.keys() - reaching


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("StableLmForCausalLM", {"qk_layernorm": 1}, "qk_layernorm"),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1]}, "no_rope_layers"),
        ("SmolLM3ForCausalLM", {"no_rope_layers": "1, 0"}, "no_rope_layers"),
        ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 0}, "no_rope_layer_interval"),
        ("GraniteForCausalLM", {"logits_scaling": 0}, "logits_scaling"),
        ("CohereForCausalLM", {"use_qk_norm": "yes"}, "use_qk_norm"),
        ("GptOssForCausalLM", {"swiglu_limit": 0}, "swiglu_limit"),
        ("GptOssForCausalLM", {"num_experts": 3}, "num_experts_per_tok is 4, but there are 3"),
        ("Cohere2ForCausalLM", {"sliding_window": None}, "sliding_window is null"),
        ("Cohere2ForCausalLM", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        ("BaichuanForCausalLM", {"z_loss_weight": 0, "tie_word_embeddings": True}, "tie_word_embeddings"),
        ("GemmaForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": 0}, "attn_logit_softcapping"),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": "256"}, "query_pre_attn_scalar"),
        ("Gemma3ForCausalLM", {"rope_parameters": {"sliding_attention": 5}}, "rope_parameters"),
        ("Gemma3ForCausalLM", {"rope_scaling": [8.0]}, "rope_scaling"),
        ("Gemma3ForCausalLM", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        ("GraniteForCausalLM", {"residual_multiplier": "1"}, "residual_multiplier"),
    ],
)
def test_what_a_family_cannot_do_is_refused_by_name(
    architecture: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    assert named in refusal(tmp_path, architectures=[architecture], **changes)


def test_smollm3_turns_three_of_four_layers(tmp_path: Path) -> None:
    config = load(tmp_path, architectures=["SmolLM3ForCausalLM"], num_hidden_layers=8)
    assert config.rope_of_layer == (0, 0, 0, 1, 0, 0, 0, 1)
    assert [rope.kind for rope in config.ropes] == ["default", "none"]
    assert config.ropes[0].theta == 2e6


def test_gemma_3_has_a_rotation_for_each_kind_of_layers(tmp_path: Path) -> None:
    """In the spelling of transformers 4, and in that of transformers 5."""
    gemma = {"architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 3, "sliding_window_pattern": 3}
    scaling = {"rope_type": "linear", "factor": 8.0}
    old = load(tmp_path, **gemma, rope_theta=1e5, rope_local_base_freq=5e3, rope_scaling=scaling)
    parameters = {"full_attention": {**scaling, "rope_theta": 1e5}, "sliding_attention": {"rope_theta": 5e3}}
    new = load(tmp_path, **gemma, rope_parameters=parameters)
    assert old.ropes == new.ropes
    assert [(rope.kind, rope.theta, rope.factor) for rope in new.ropes] == [("linear", 1e5, 8.0), ("default", 5e3, 1.0)]
    assert old.rope_of_layer == new.rope_of_layer == (1, 1, 0)
    assert new.warnings == ()
    sparse = load(tmp_path, **gemma)
    assert [rope.theta for rope in sparse.ropes] == [1e6, 1e4]


def test_a_null_softcap_is_none_and_an_absent_one_the_familys(tmp_path: Path) -> None:
    config = load(tmp_path, architectures=["Gemma2ForCausalLM"], final_logit_softcapping=None)
    assert (config.form.scales.logit_softcap, config.form.scales.attention_softcap) == (None, 50.0)
    assert config.sliding_windows == (4096, None)


def test_the_first_gemma_files_say_gelu_and_mean_tanh(tmp_path: Path) -> None:
    assert load(tmp_path, architectures=["GemmaForCausalLM"], hidden_act="gelu").activation == "gelu_tanh"


def test_gpt_oss_as_the_hub_has_it(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    hub = {"experts_per_token": 4, "num_experts_per_tok": 4, "num_local_experts": 32, "initial_context_length": 4096}
    hub |= {"rope_scaling": {**rope, "original_max_position_embeddings": 4096}, "rope_theta": 150000}
    hub |= {"swiglu_limit": 7.0, "router_aux_loss_coef": 0.9, "output_router_logits": False, "attention_bias": True}
    hub |= {"sliding_window": 128, "head_dim": 64, "layer_types": ["sliding_attention", "full_attention"]}
    config = load(tmp_path, architectures=["GptOssForCausalLM"], max_position_embeddings=131072, **hub)
    assert config.warnings == ()
    assert config.sliding_windows == (128, None)
    sparse = load(tmp_path, architectures=["GptOssForCausalLM"], max_position_embeddings=131072, num_local_experts=32)
    assert (sparse.ropes, sparse.sliding_windows, sparse.form) == (config.ropes, config.sliding_windows, config.form)
    assert config.ropes[0].factor == 32.0


def test_which_layers_of_command_r7b_turn(tmp_path: Path) -> None:
    """The keys of the hub's file; those with a window do."""
    hub = {"layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "position_embedding_type": "rope_gptj"}
    hub |= {"rotary_pct": 1.0, "use_embedding_sharing": True, "use_gated_activation": True, "use_qk_norm": False}
    hub |= {"use_parallel_block": True, "use_parallel_embedding": True, "cache_implementation": "hybrid"}
    hub |= {"sliding_window": 32, "sliding_window_pattern": 4, "rope_theta": 50000, "logit_scale": 0.25, "head_dim": 16}
    config = load(tmp_path, architectures=["Cohere2ForCausalLM"], num_hidden_layers=5, **hub)
    assert config.sliding_windows == (32, 32, 32, None, 32)
    assert [config.ropes[rope].kind for rope in config.rope_of_layer] == ["default"] * 3 + ["none", "default"]
    assert config.warnings == ()


def test_olmo_3_scales_the_rotation_of_layers_without_a_window(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}
    config = load(tmp_path, architectures=["Olmo3ForCausalLM"], num_hidden_layers=4, rope_scaling=scaling)
    assert [config.ropes[rope].kind for rope in config.rope_of_layer] == ["default"] * 3 + ["yarn"]
    assert [rope.theta for rope in config.ropes] == [5e5, 5e5]
    assert config.sliding_windows == (4096, 4096, 4096, None)


@pytest.mark.parametrize(
    ("changes", "is_second"), [({}, False), ({"vocab_size": 125696}, True), ({"z_loss_weight": 0}, True)]
)
def test_the_head_of_baichuan2_is_normalised(changes: dict[str, Any], is_second: bool, tmp_path: Path) -> None:
    config = load(tmp_path, architectures=["BaichuanForCausalLM"], **changes)
    (tmp_path / "model.safetensors").touch()
    assert config.form.head_is_normalised == is_second
    assert ("lm_head" in config.base_model("x").sites) != is_second


def test_defaults_of_an_old_sparse_file(tmp_path: Path) -> None:
    config = load(tmp_path, num_key_value_heads=None, max_position_embeddings=..., architectures=...)
    assert (config.architecture, config.num_kv_heads, config.head_dim) == ("LlamaForCausalLM", 4, 16)
    assert (config.max_position_embeddings, config.norm_eps, config.ropes[0].theta) == (2048, 1e-6, 10000.0)
    assert config.sliding_windows == (None, None)
    assert (config.dtype, load(tmp_path, torch_dtype=..., dtype="float16").dtype) == ("bfloat16", "float16")


def test_a_null_of_falcon_is_its_default(tmp_path: Path) -> None:
    config = load(tmp_path, architectures=["FalconForCausalLM"], multi_query=None)
    assert (config.num_kv_heads, config.intermediate_size) == (1, 256)
    narrow = load(tmp_path, architectures=["FalconForCausalLM"], alibi=True, hidden_size=2)
    assert len(narrow.form.slopes) == 4


def test_both_spellings_of_rope_mean_the_same(tmp_path: Path) -> None:
    old = load(tmp_path, rope_theta=5e5, rope_scaling={"type": "linear", "factor": 4})
    new = load(tmp_path, rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0})
    assert old.ropes == new.ropes
    assert (old.ropes[0].kind, old.ropes[0].theta, old.ropes[0].factor, old.ropes[0].longest) == (
        "linear",
        5e5,
        4.0,
        2048,
    )


@pytest.mark.parametrize("own", [{"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}])
@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_an_operators_rotation_goes_before_the_files(own: dict[str, Any], name: str, tmp_path: Path) -> None:
    linear = {"type": "linear", "factor": 4}
    expected = load(tmp_path, rope_theta=5e5, rope_scaling=linear).ropes
    load(tmp_path, **own)
    assert load_model_config(tmp_path, {name: linear}).ropes == expected
    (faster,) = load_model_config(tmp_path, {name: linear, "rope_theta": 7.0}).ropes
    assert (faster.kind, faster.theta) == ("linear", 7.0)
    assert load_model_config(tmp_path, {"rope_theta": 7.0}).ropes[0].theta == 7.0
    load(tmp_path, **own, rope_scaling=linear)
    assert load_model_config(tmp_path, {name: None}).ropes[0].kind == "default"
    assert load_model_config(tmp_path, {"vocab_size": 9, "architectures": ["Qwen2ForCausalLM"]}).vocab_size == 9


def test_an_operators_value_goes_before_the_files_under_another_name(tmp_path: Path) -> None:
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 128}
    config_of(tmp_path, {"vocab_size": 300, **gpt2})
    for name in ("n_layer", "num_hidden_layers"):
        assert load_model_config(tmp_path, {name: 2}).num_layers == 2


def test_one_rotation_in_the_place_of_several_is_refused(tmp_path: Path) -> None:
    kinds = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")}
    own = load(tmp_path, architectures=["Gemma3ForCausalLM"], rope_parameters=kinds)
    yarn = {"rope_type": "yarn", "factor": 4.0}
    for wrong in ({"rope_theta": 7.0}, {"rope_scaling": yarn}, {"rope_parameters": yarn}):
        with pytest.raises(ModelError, match="several rotations"):
            load_model_config(tmp_path, wrong)
    changed = load_model_config(tmp_path, {"rope_parameters": {**kinds, "full_attention": {**yarn, "rope_theta": 1e4}}})
    assert (changed.ropes[0].kind, changed.ropes[1]) == ("yarn", own.ropes[1])


def test_early_phi3_spellings_of_longrope(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    for name in ("su", "yarn", "longrope"):
        rope = load(tmp_path, architectures=["Phi3ForCausalLM"], rope_scaling={"type": name, **factors}).ropes[0]
        assert (rope.kind, rope.long_factor) == ("longrope", (2.0,) * 8)
        assert rope.original_max_position_embeddings == 4096


def test_the_engines_length_chooses_frequencies(tmp_path: Path) -> None:
    """Never the request's, or shared KV would be wrong."""
    rope = load(tmp_path, rope_scaling={"type": "dynamic", "factor": 2.0}).ropes[0]
    plain = load(tmp_path).ropes[0]
    assert torch.equal(inverse_frequencies(rope, 512)[0], inverse_frequencies(plain, 512)[0])
    assert not torch.equal(inverse_frequencies(rope, 513)[0], inverse_frequencies(plain, 513)[0])


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, (None, None)),
        ({"use_sliding_window": True}, (None, None)),
        ({"use_sliding_window": True, "max_window_layers": 1}, (None, 32)),
        ({"use_sliding_window": True, "max_window_layers": 0}, (32, 32)),
        ({"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}, (32, None)),
        ({"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None}, (None, None)),
        ({"architectures": ["MistralForCausalLM"]}, (32, 32)),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, (None, None)),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": ...}, (4096, 4096)),
        ({"architectures": ["Phi3ForCausalLM"], "sliding_window": ...}, (None, None)),
        ({"architectures": ["LlamaForCausalLM"]}, (None, None)),
    ],
)
def test_sliding_windows(changes: dict[str, Any], windows: Any, tmp_path: Path) -> None:
    assert load(tmp_path, **{**QWEN2, **changes}).sliding_windows == windows


def test_generation_config_wins(tmp_path: Path) -> None:
    assert load(tmp_path, eos_token_id=[2, 5]).eos_token_ids == (2, 5)
    generation = {"eos_token_id": [7, 8], "temperature": 0.6, "top_k": 20, "do_sample": True, "top_p": None}
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": None}))
    assert load(tmp_path).eos_token_ids == (2,)
    path.write_text(json.dumps(generation))
    config = load(tmp_path)
    assert config.eos_token_ids == (7, 8)
    assert config.generation_defaults == {"temperature": 0.6, "top_k": 20}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", -1, ">= 0, got -1"),
        ("temperature", "hot", "a number, got 'hot'"),
        ("temperature", float("nan"), "finite"),
        ("top_p", 0, "greater than 0"),
        ("top_k", 2.5, "got 2.5"),
        ("top_k", -7, "got -7"),
        ("min_p", 2, "between 0 and 1"),
        ("repetition_penalty", 0, "0.001"),
        ("max_new_tokens", 0, "at least 1"),
        ("max_new_tokens", True, "a number"),
    ],
)
def test_impossible_generation_values_are_told_and_ignored(name: str, value: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({name: value, "eos_token_id": 7}))
    config = load(tmp_path)
    assert (config.generation_defaults, config.eos_token_ids) == ({}, (7,))
    (warning,) = config.warnings
    assert warning.startswith(f"generation_config.json: {name} must be")
    assert words in warning


@pytest.mark.parametrize(
    ("eos", "ends", "told"),
    [
        ([7.0, 8], (7, 8), ()),
        ("7", (2,), ("'7'",)),
        ([7, -1, 10**6, None, True], (7,), ("'-1'", "'1000000'", "'None'", "'True'")),
        ([], (2,), ()),
        (2.5, (2,), ("'2.5'",)),
    ],
    ids=str,
)
def test_ends_that_are_no_tokens_are_told_and_ignored(
    eos: Any, ends: tuple[int, ...], told: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    config = load(tmp_path)
    assert config.eos_token_ids == ends
    assert len(config.warnings) == len(told)
    assert all(value in line for value, line in zip(told, config.warnings, strict=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html>", "is a web page"),
    ],
    ids=["empty", "pointer", "page"],
)
def test_a_file_in_the_models_place_is_told(content: bytes, words: str, tmp_path: Path) -> None:
    load(tmp_path)
    for name, read in (("model.safetensors", stored_tensors), ("config.json", load_model_config)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name} {words}"):
            read(tmp_path)


def test_an_answers_default_length_is_read(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 40.0, "top_k": 20.0}))
    assert load(tmp_path).generation_defaults == {"max_new_tokens": 40, "top_k": 20}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, ["ForConditional", "LlamaForCausalLM", "Phi3For"]),
        ({"architectures": ..., "model_type": "mamba"}, ["mamba", "Qwen3ForCausalLM"]),
        ({"quantization_config": {"quant_method": "quip"}}, ["quantised (quip)", "unquantised"]),
        ({"hidden_size": ...}, ["hidden_size is missing"]),
        ({"num_hidden_layers": "two"}, ["num_hidden_layers is 'two'", "positive integer"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers is 'True'"]),
        ({"num_key_value_heads": 3}, ["4 attention heads cannot share 3"]),
        ({"hidden_act": "relu2"}, ["relu2", "silu"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "true or false"]),
        ({"rope_scaling": {"type": "mrope"}}, ["mrope", "llama3"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor is missing"]),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}, ["8 numbers"]),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["one rotary embedding"]),
        ({"partial_rotary_factor": 0.95}, ["even number"]),
        ({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "layer_types": ["odd"]}, ["layer_types"]),
        ({"architectures": ["ChatGLMModel"], "position_encoding_2d": True}, ["ChatGLM-6B is not served"]),
        ({"architectures": ["ChatGLMModel"]}, ["multi_query_attention is false"]),
        (
            {"architectures": ["ChatGLMForConditionalGeneration"], "multi_query_attention": True, "pre_seq_len": 128},
            ["pre_seq_len is not 0"],
        ),
        (
            {"architectures": ["BloomForCausalLM"], "apply_residual_connection_post_layernorm": True},
            ["apply_residual_connection_post_layernorm is true"],
        ),
        ({"architectures": ["MPTForCausalLM"], "attn_config": {"clip_qkv": -6}}, ["attn_config.clip_qkv is '-6'"]),
        ({"architectures": ["MPTForCausalLM"], "attn_config": {"qk_ln": True}}, ["attn_config.qk_ln is true"]),
        ({"architectures": ["MptForCausalLM"], "attn_config": {"alibi": False}}, ["attn_config.alibi is false"]),
        ({"architectures": ["MPTForCausalLM"], "attn_config": {"rope": True}}, ["attn_config.rope is true"]),
        (
            {"architectures": ["MPTForCausalLM"], "attn_config": {"sliding_window_size": 8}},
            ["attn_config.sliding_window_size is set"],
        ),
        ({"architectures": ["MPTForCausalLM"], "attn_config": [1]}, ["attn_config has to be an object"]),
        ({"architectures": ["MPTForCausalLM"], "logit_scale": 0.5}, ["logit_scale is set"]),
        ({"architectures": ["MPTForCausalLM"], "no_bias": False}, ["no_bias is false"]),
        ({"architectures": ["OPTForCausalLM"], "do_layer_norm_before": False}, ["do_layer_norm_before is false"]),
        ({"architectures": ["OPTForCausalLM"], "_remove_final_layer_norm": True}, ["_remove_final_layer_norm is true"]),
        ({"architectures": ["OPTForCausalLM"], "word_embed_proj_dim": 32}, ["word_embed_proj_dim"]),
        (
            {"architectures": ["FalconForCausalLM"], "parallel_attn": False, "new_decoder_architecture": True},
            ["parallel_attn is false"],
        ),
    ],
)
def test_refusals_name_the_cause(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    message = refusal(tmp_path, **changes)
    assert all(word in message for word in words), message


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is an adapter, not a model\. Serve its base model, .*adapters add"):
        load_model_config(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model_config(tmp_path)
    for content in ("{", "[1]", "\udcff"):
        (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(ModelError, match=r"config\.json .*Download or save"):
            load_model_config(tmp_path)


def test_the_digest_follows_content(tmp_path: Path) -> None:
    config = load(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = config.base_model("a").digest
    assert config.base_model("b").digest == first
    weights.write_bytes(b"two")
    os.utime(weights, ns=(1, 1))
    second = config.base_model("a").digest
    assert second != first
    assert load(tmp_path, rms_norm_eps=1e-5).base_model("a").digest != second
    changed = [load_model_config(tmp_path, {"rms_norm_eps": value}).base_model("a").digest for value in (1e-4, 1e-3)]
    assert len({second, *changed}) == 3
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"one")
    assert load(other).base_model("a").digest == first


def test_a_known_file_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"one")
    digest = config.base_model("a").digest
    monkeypatch.setattr("multiflora_engine.models.file_digests._hash", lambda path: pytest.fail("hashed again"))
    assert config.base_model("a").digest == digest


def test_a_damaged_digest_cache_only_costs_time(tmp_path: Path) -> None:
    config = load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"one")
    digest = config.base_model("a").digest
    (tmp_path / "file_digests.json").write_text("nonsense")
    assert config.base_model("a").digest == digest


def test_local_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    assert resolve_model(tmp_path) == tmp_path
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match="is a file"):
        resolve_model(tmp_path / "model.gguf")
    for name in (str(tmp_path / "nothing"), "../up", "a/b/c"):
        with pytest.raises(ModelError, match="There is no folder"):
            resolve_model(name)


def test_the_hub_is_asked_for_safe_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("org/model", revision="v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("org/model", "v1")
    files = ["config.json", "model-1.safetensors", "pytorch_model.bin", "modeling.py", "sub/model.safetensors"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == files[:2]
    assert resolve_model("org/model", pickles=True) == tmp_path
    kept = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == ["config.json", "pytorch_model.bin"]


def _http_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    error = kind.__new__(kind)
    Exception.__init__(error, "no")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_http_error(errors.GatedRepoError), "gated.*HF_TOKEN"),
        (_http_error(errors.RepositoryNotFoundError), "no model org/model.*Check the name"),
        (_http_error(errors.RevisionNotFoundError), "no revision"),
        (errors.LocalEntryNotFoundError("x"), "not in the local cache.*HF_HUB_OFFLINE"),
        (OSError("disk full"), "cannot be downloaded: disk full"),
    ],
)
def test_hub_errors_name_cause_and_next_step(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=words):
        resolve_model("org/model")


def test_an_unknown_model_offline(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not in the local cache"):
        resolve_model("no-such-org/no-such-model", cache_dir=tmp_path)
