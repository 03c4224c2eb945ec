"""Falcon, with RoPE or ALiBi: few key heads, each stored with its queries. Source: transformers, models/falcon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.alibi import alibi_slopes
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    embedding="transformer.word_embeddings",
    layers="transformer.h",
    qkv=("self_attention.query_key_value",),
    o="self_attention.dense",
    mlp_norm=None,
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    norm="transformer.ln_f",
    root="transformer.",
)


def _form(fields: ConfigFields) -> Form:
    is_new, is_parallel = fields.flag("new_decoder_architecture", False), fields.flag("parallel_attn", True)
    if is_new and not is_parallel:
        raise ModelError("config.json: parallel_attn is false beside new_decoder_architecture, which is not served.")
    has_bias, has_slopes = fields.flag("bias", False), fields.flag("alibi", False)
    return Form(
        _names(is_parallel, norms=fields.integer("num_ln_in_parallel_attn", 2) if is_new else 1),
        norm="layer",
        norm_has_bias=True,
        is_parallel=is_parallel,
        is_gated=False,
        is_multi_head=not is_new and not fields.flag("multi_query", True),
        qkv_bias=has_bias,
        o_bias=has_bias,
        up_bias=has_bias,
        down_bias=has_bias,
        qkv_is_grouped=True,
        rotates=not has_slopes,
        slopes=_slopes(fields) if has_slopes else (),
    )


def _slopes(fields: ConfigFields) -> tuple[float, ...]:
    """Falcon scales them with the products. (Its own code rounds the bias to bfloat16; here it is exact.)"""
    heads = fields.integer("num_attention_heads")
    scale = max(1, fields.integer("hidden_size") // heads) ** -0.5
    return tuple(slope * scale for slope in alibi_slopes(heads))


def _names(is_parallel: bool, norms: int) -> ModuleNames:
    if not is_parallel:
        return replace(_MODULES, mlp_norm="post_attention_layernorm")
    return replace(_MODULES, input_norm="ln_attn", mlp_norm="ln_mlp") if norms == 2 else _MODULES


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    derived: dict[str, Any] = {}
    hidden = raw.get("hidden_size")
    if raw.get("ffn_hidden_size") is None and isinstance(hidden, int):
        derived["intermediate_size"] = 4 * hidden
    if not raw.get("new_decoder_architecture") and raw.get("multi_query") is not False:
        derived["num_key_value_heads"] = 1
    return derived


FALCON = Family(
    "FalconForCausalLM",
    "falcon",
    _form,
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "gelu", "tie_word_embeddings": True},
    aliases={
        "intermediate_size": "ffn_hidden_size",
        "num_key_value_heads": "num_kv_heads",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation",
    },
    derive=_derive,
    reads=frozenset(
        {"alibi", "bias", "multi_query", "new_decoder_architecture", "num_ln_in_parallel_attn", "parallel_attn"}
    ),
    ignores=frozenset({"hidden_dropout", "apply_residual_connection_post_layernorm"}),
)
