"""GPT-2: learned positions, layer norms, transposed linears. Source: transformers, models/gpt2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames, Scales

WORDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "rms_norm_eps": "layer_norm_epsilon",
}
"""Llama's words for keys -> those of GPT-2, which GPT-J has, too."""

_MODULES = ModuleNames(
    embedding="transformer.wte",
    position_embedding="transformer.wpe",
    layers="transformer.h",
    input_norm="ln_1",
    qkv=("attn.c_attn",),
    o="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    norm="transformer.ln_f",
    root="transformer.",
    derived=("attn.bias", "attn.masked_bias"),
)


def _form(fields: ConfigFields) -> Form:
    fields.require("scale_attn_by_inverse_layer_idx", served=False, fallback=False)
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
        rotates=False,
        is_transposed=True,
        scales=Scales(attention=None if fields.flag("scale_attn_weights", True) else 1.0),
    )


def inner_size(raw: Mapping[str, Any]) -> dict[str, Any]:
    """n_inner may be left out."""
    inner, hidden = raw.get("n_inner"), raw.get("n_embd")
    return {"intermediate_size": 4 * hidden} if inner is None and isinstance(hidden, int) else {}


GPT2 = Family(
    "GPT2LMHeadModel",
    "gpt2",
    _form,
    defaults={
        "rms_norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
    },
    aliases=WORDS,
    derive=inner_size,
    reads=frozenset({"scale_attn_by_inverse_layer_idx", "scale_attn_weights"}),
    ignores=frozenset(
        {
            "attn_pdrop",
            "n_ctx",
            "reorder_and_upcast_attn",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
)
