"""Families whose code stands on the hub only say what the same layers of transformers say under other names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import GlmConfig, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config

from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.validation import validate_adapter
from multiflora_engine.models.configuration.reading import load_model_config

Tensors = dict[str, torch.Tensor]


def _as_qwen(tensors: Tensors) -> Tensors:
    names = {
        "self_attn.o_proj": "attn.c_proj", "mlp.gate_proj": "mlp.w2", "mlp.up_proj": "mlp.w1",
        "mlp.down_proj": "mlp.c_proj", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2",
        "model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "model.layers": "transformer.h",
    }  # fmt: skip
    return _renamed(_stacked(tensors, "attn.c_attn"), names)


def _as_chatglm(tensors: Tensors) -> Tensors:
    names = {
        "self_attn.o_proj": "self_attention.dense", "mlp.gate_up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h", "model.embed_tokens": "transformer.embedding.word_embeddings",
        "model.norm": "transformer.encoder.final_layernorm", "model.layers": "transformer.encoder.layers",
        "lm_head": "transformer.output_layer",
    }  # fmt: skip
    return _renamed(_stacked(tensors, "self_attention.query_key_value"), names)


def _as_baichuan(tensors: Tensors) -> Tensors:
    return _stacked(tensors, "self_attn.W_pack")


def _as_mpt(tensors: Tensors) -> Tensors:
    """Without biases, the linears the other way round."""
    names = {
        "transformer.h": "transformer.blocks", "ln_1": "norm_1", "ln_2": "norm_2", "ln_f": "norm_f",
        "attn.c_attn": "attn.Wqkv", "attn.c_proj": "attn.out_proj", "mlp.c_fc": "ffn.up_proj",
        "mlp.c_proj": "ffn.down_proj",
    }  # fmt: skip
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(".bias") and "lm_head" not in key}
    return _renamed({key: tensor.T if ".c_" in key else tensor for key, tensor in kept.items()}, names)


def _without_biases(model: PreTrainedModel) -> PreTrainedModel:
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data.zero_()
    return model


def _with_normalised_head(model: PreTrainedModel) -> PreTrainedModel:
    model.lm_head.weight.data = F.normalize(model.lm_head.weight.data)
    return model


def _with_slopes(model: PreTrainedModel) -> PreTrainedModel:
    """Llama that turns nothing and adds slope * position of the key, which for softmax is ALiBi."""
    slopes = torch.tensor([2.0**-4, 2.0**-8, 2.0**-2])  # of the paper, for three heads: those of two, then one of four
    forward, turn = model.forward, model.model.rotary_emb.forward

    def turned_by_nothing(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = turn(x, position_ids)
        return torch.ones_like(cos), torch.zeros_like(sin)

    def biased(tokens: torch.Tensor) -> Any:
        length = tokens.shape[1]
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        mask = mask + slopes[:, None, None] * torch.arange(length)
        return forward(tokens, attention_mask=mask.clamp(min=torch.finfo(torch.float32).min)[None])

    model.model.rotary_emb.forward = turned_by_nothing
    model.forward = biased
    return model


def _stacked(tensors: Tensors, name: str) -> Tensors:
    """q, k and v as one linear."""
    stacked = {key: tensor for key, tensor in tensors.items() if not any(f"{part}_proj." in key for part in "qkv")}
    for key in tensors:
        if "self_attn.q_proj." in key:
            parts = [tensors[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            stacked[key.replace("self_attn.q_proj", name)] = torch.cat(parts)
    return stacked


def _renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    renamed = {}
    for key, tensor in tensors.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = tensor.contiguous()
    return renamed


@dataclass
class HubFamily:
    """A family of the hub, and the class of transformers that computes the same."""

    config_class: Any
    values: dict[str, Any]  # of that class
    renamed: Callable[[Tensors], Tensors]
    config: dict[str, Any]  # config.json as the hub's files have it
    linear: str  # a linear that adapters may touch
    widths: tuple[int, int]  # (in, out) of that linear
    changed: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model  # what that class does not compute


QWEN = {
    "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "attn_dropout_prob": 0.0, "bf16": True, "fp16": False,
    "hidden_size": 64, "intermediate_size": 192, "kv_channels": 32, "layer_norm_epsilon": 1e-6, "no_bias": True,
    "max_position_embeddings": 8192, "num_attention_heads": 2, "num_hidden_layers": 2, "rotary_emb_base": 10000,
    "rotary_pct": 1.0, "scale_attn_weights": True, "seq_length": 512, "tie_word_embeddings": False,
    "use_dynamic_ntk": True, "use_logn_attn": True, "use_flash_attn": "auto", "vocab_size": 300,
}  # fmt: skip
CHATGLM = {
    "architectures": ["ChatGLMModel"], "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False, "ffn_hidden_size": 96,
    "hidden_size": 64, "kv_channels": 32, "layernorm_epsilon": 1e-5, "multi_query_attention": True,
    "multi_query_group_num": 1, "num_attention_heads": 2, "num_layers": 2, "original_rope": True,
    "padded_vocab_size": 300, "post_layer_norm": True, "quantization_bit": 0, "rmsnorm": True, "rope_ratio": 50,
    "seq_length": 512, "tie_word_embeddings": False, "pre_seq_len": None, "eos_token_id": [2],
}  # fmt: skip
BAICHUAN = {
    "architectures": ["BaiChuanForCausalLM"], "model_type": "baichuan", "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 96, "max_position_embeddings": 512, "num_attention_heads": 2, "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BAICHUAN_13B = {
    **BAICHUAN, "architectures": ["BaichuanForCausalLM"], "_from_model_config": True, "hidden_size": 96,
    "num_attention_heads": 3, "max_position_embeddings": None, "model_max_length": 512,
}  # fmt: skip
BAICHUAN2 = {**BAICHUAN, "architectures": ["BaichuanForCausalLM"], "z_loss_weight": 0}
BAICHUAN2_13B = {**BAICHUAN_13B, "z_loss_weight": 0}
MPT = {
    "architectures": ["MPTForCausalLM"], "model_type": "mpt", "d_model": 64, "n_heads": 2, "n_layers": 2,
    "expansion_ratio": 4, "max_seq_len": 512, "vocab_size": 300, "learned_pos_emb": True, "no_bias": True,
    "attn_config": {"alibi": False, "attn_impl": "torch", "clip_qkv": None, "sliding_window_size": -1, "rope": False},
}  # fmt: skip
MULTI_HEAD = {"num_key_value_heads": 2, "rms_norm_eps": 1e-6}
THREE_HEADS = {**MULTI_HEAD, "num_key_value_heads": 3, "num_attention_heads": 3, "hidden_size": 96}
GLM = {"head_dim": 32, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}
GPT2 = {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512, "activation_function": "gelu"}
FAMILIES = {
    "qwen": HubFamily(Qwen2Config, MULTI_HEAD, _as_qwen, QWEN, "attn.c_attn", (64, 192)),
    "chatglm": HubFamily(GlmConfig, GLM, _as_chatglm, CHATGLM, "self_attention.query_key_value", (64, 128)),
    "baichuan": HubFamily(LlamaConfig, MULTI_HEAD, _as_baichuan, BAICHUAN, "self_attn.W_pack", (64, 192)),
    "baichuan_13b": HubFamily(
        LlamaConfig, THREE_HEADS, _as_baichuan, BAICHUAN_13B, "self_attn.W_pack", (96, 288), _with_slopes
    ),
    "baichuan2": HubFamily(
        LlamaConfig, MULTI_HEAD, _as_baichuan, BAICHUAN2, "self_attn.W_pack", (64, 192), _with_normalised_head
    ),
    "baichuan2_13b": HubFamily(
        LlamaConfig,
        THREE_HEADS,
        _as_baichuan,
        BAICHUAN2_13B,
        "self_attn.W_pack",
        (96, 288),
        lambda model: _with_slopes(_with_normalised_head(model)),
    ),
    "mpt_learned_positions": HubFamily(GPT2Config, GPT2, _as_mpt, MPT, "attn.Wqkv", (64, 192), _without_biases),
}


@pytest.fixture(params=FAMILIES)
def saved(request: Any, tmp_path: Path, tiny_config: Any, save_model: Any) -> tuple[HubFamily, PreTrainedModel, Path]:
    family = FAMILIES[request.param]
    model, _ = save_model(tiny_config(family.config_class, **family.values))
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(family.renamed(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(family.config))
    return family, family.changed(model), folder


def test_the_same_answers(saved: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any) -> None:
    """Mixed lengths in chunks of 48 tokens; a second round is served from the prefix cache."""
    _, model, folder = saved
    config = load_model_config(folder)
    assert (config.warnings, config.max_position_embeddings) == ((), 512)
    engine = start_engine(folder, max_model_len=256)
    for prompt, answer in zip(prompts, ask(engine, prompts, prompt_logprobs=0), strict=True):
        check_answer(model, prompt, answer)
    cached = ask(engine, prompts)
    assert [answer.cached_tokens for answer in cached] == [(len(prompt) - 1) // 16 * 16 for prompt in prompts]
    for prompt, answer in zip(prompts, cached, strict=True):
        check_answer(model, prompt, answer)


def test_an_adapter_is_the_weights_that_it_adds(
    saved: Any, tmp_path: Path, start_engine: Any, ask: Any, prompts: Any
) -> None:
    """Of the stacked q, k and v, whose rows lie in another order where neighbours turn."""
    family, _, folder = saved
    width, out = family.widths
    generator = torch.Generator().manual_seed(5)
    layers = next(key for key in load_model_config(folder).base_model("x", "0" * 64).sites if family.linear in key)
    name = layers.removesuffix(family.linear)
    a, b = torch.randn(4, width, generator=generator) * 0.2, torch.randn(out, 4, generator=generator) * 0.2
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    prefix = f"base_model.model.{name}{family.linear}"
    save_file({f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": [family.linear], "layers_to_transform": 0}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    digest = ArtifactStore(tmp_path / "artifacts").add(adapter).digest
    (found,) = ask(start_engine(folder, max_model_len=256), [prompts[4]], [digest], prompt_logprobs=0)
    tensors = family.renamed(_state(saved))
    tensors[f"{name}{family.linear}.weight"] += b @ a
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (expected,) = ask(start_engine(folder, max_model_len=256), [prompts[4]], prompt_logprobs=0)
    assert found.tokens == expected.tokens
    assert found.logprobs == pytest.approx(expected.logprobs, abs=2e-3)


def test_the_normalised_head_of_baichuan2_is_not_adapted(tmp_path: Path, tiny_config: Any, save_model: Any) -> None:
    """PEFT trains no LoRA there; a head of an adapter's own would have to be normalised."""
    family = FAMILIES["baichuan2"]
    model, _ = save_model(tiny_config(family.config_class, **family.values))
    save_file(family.renamed(model.state_dict()), tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(family.config))
    base = load_model_config(tmp_path).base_model("x", "0" * 64)
    prefix = "base_model.model."
    attention = {
        f"{prefix}model.layers.0.self_attn.W_pack.lora_A.weight": torch.ones(4, 64),
        f"{prefix}model.layers.0.self_attn.W_pack.lora_B.weight": torch.ones(192, 4),
    }
    lora = {f"{prefix}lm_head.lora_A.weight": torch.ones(4, 64), f"{prefix}lm_head.lora_B.weight": torch.ones(300, 4)}
    whole = {f"{prefix}lm_head.weight": torch.ones(300, 64)}
    for head, settings in (
        (lora, {"target_modules": ["W_pack", "lm_head"]}),
        (whole, {"target_modules": ["W_pack"], "modules_to_save": ["lm_head"]}),
        (whole, {"target_modules": ["W_pack"]}),
        ({}, {"target_modules": ["W_pack"], "trainable_token_indices": {"lm_head": [3]}}),
    ):
        adapter = tmp_path / "adapter"
        adapter.mkdir(exist_ok=True)
        save_file(attention | head, adapter / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "layers_to_transform": [0], **settings}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        errors = [row.message for row in validate_adapter(adapter, base, 16).errors]
        assert any("lm_head" in message for message in errors), (settings, errors)


def _state(saved: tuple[HubFamily, PreTrainedModel, Path]) -> Tensors:
    return {name: tensor.clone() for name, tensor in saved[1].state_dict().items()}
