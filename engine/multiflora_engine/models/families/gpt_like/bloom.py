"""BLOOM and BLOOMZ: ALiBi, a norm over the embeddings. Source: transformers, models/bloom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.alibi import alibi_slopes
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    embedding="transformer.word_embeddings",
    embedding_norm="transformer.word_embeddings_layernorm",
    layers="transformer.h",
    qkv=("self_attention.query_key_value",),
    o="self_attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    norm="transformer.ln_f",
    root="transformer.",
)
# Older files have the names on the right, or Llama's.
_NAMES = {"hidden_size": "n_embed", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}


def _form(fields: ConfigFields) -> Form:
    fields.require("apply_residual_connection_post_layernorm", served=False, fallback=False)
    return Form(
        _MODULES,
        norm="layer",
        norm_has_bias=True,
        is_gated=False,
        is_multi_head=True,
        qkv_bias=True,
        o_bias=True,
        up_bias=True,
        down_bias=True,
        qkv_is_grouped=True,
        rotates=False,
        slopes=alibi_slopes(fields.integer("num_attention_heads")),
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    derived = {key: raw[name] for key, name in _NAMES.items() if raw.get(name) is not None}
    hidden = derived.get("hidden_size", raw.get("hidden_size"))
    if isinstance(hidden, int):
        derived["intermediate_size"] = 4 * hidden
    if raw.get("seq_length") is not None:
        derived["max_position_embeddings"] = raw["seq_length"]
    return derived


BLOOM = Family(
    "BloomForCausalLM",
    "bloom",
    _form,
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "gelu_new", "tie_word_embeddings": True},
    aliases={"rms_norm_eps": "layer_norm_epsilon"},
    derive=_derive,
    reads=frozenset({*_NAMES.values(), "apply_residual_connection_post_layernorm", "seq_length"}),
    ignores=frozenset(
        {
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "hidden_dropout",
            "masked_softmax_fusion",
            "offset_alibi",
            "skip_bias_add",
            "skip_bias_add_qkv",
            "slow_but_exact",
            "unk_token_id",
        }
    ),
)
