"""OPT: learned positions that start in row 2, ReLU. Source: transformers, models/opt."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    embedding="model.decoder.embed_tokens",
    position_embedding="model.decoder.embed_positions",
    layers="model.decoder.layers",
    input_norm="self_attn_layer_norm",
    o="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    up=("fc1",),
    down="fc2",
    norm="model.decoder.final_layer_norm",
)
# What one size (350m) or older conversions say: norms behind, without a last one, or without weights.
_SERVED = {"do_layer_norm_before": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False}


def _form(fields: ConfigFields) -> Form:
    for key, value in _SERVED.items():
        fields.require(key, served=value, fallback=value)
    hidden = fields.integer("hidden_size")
    if fields.integer("word_embed_proj_dim", hidden) != hidden:
        raise ModelError("config.json: a word_embed_proj_dim other than hidden_size is not served.")
    has_bias = fields.flag("enable_bias", True)
    return Form(
        _MODULES,
        norm="layer",
        norm_has_bias=True,
        is_gated=False,
        is_multi_head=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        up_bias=has_bias,
        down_bias=has_bias,
        rotates=False,
        position_offset=2,
    )


OPT = Family(
    "OPTForCausalLM",
    "opt",
    _form,
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "relu", "tie_word_embeddings": True},
    aliases={"intermediate_size": "ffn_dim", "hidden_act": "activation_function"},
    reads=frozenset({*_SERVED, "word_embed_proj_dim", "enable_bias"}),
    ignores=frozenset({"dropout", "activation_dropout", "layerdrop", "init_std"}),
)
