"""ChatGLM2, ChatGLM3 and GLM-4 in their first form on the hub. Source: the models' own code (modeling_chatglm.py).

transformers has the same layers under other names (models/glm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    embedding="transformer.embedding.word_embeddings",
    layers="transformer.encoder.layers",
    qkv=("self_attention.query_key_value",),
    o="self_attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    norm="transformer.encoder.final_layernorm",
    head="transformer.output_layer",
    root="transformer.",
    derived=("rotary_pos_emb.inv_freq",),
)
_SERVED = {
    "multi_query_attention": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "prefix_projection": False,
}
_DEFAULTS = {**_SERVED, "multi_query_attention": False}


def _form(fields: ConfigFields) -> Form:
    if fields.flag("position_encoding_2d", False):
        raise ModelError("config.json: position_encoding_2d is true: ChatGLM-6B is not served. Give ChatGLM2 or 3.")
    for key, value in _SERVED.items():
        fields.require(key, served=value, fallback=_DEFAULTS[key])
    for key in ("pre_seq_len", "quantization_bit"):
        if fields.integer(key, 0, minimum=0):
            raise ModelError(f"config.json: {key} is not 0, which is not served. Give the unquantised model itself.")
    has_bias = fields.flag("add_bias_linear", False)
    return Form(
        _MODULES,
        qkv_bias=has_bias or fields.flag("add_qkv_bias", False),
        o_bias=has_bias,
        up_bias=has_bias,
        down_bias=has_bias,
        rotates_neighbours=True,
        rotates_part_of_a_head=True,
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    ratio = raw.get("rope_ratio", 1)
    return {"rope_theta": 10000 * ratio, "partial_rotary_factor": 0.5} if isinstance(ratio, int | float) else {}


CHATGLM = Family(
    "ChatGLMModel",
    "chatglm",
    _form,
    defaults={"rms_norm_eps": 1e-5},
    aliases={
        "vocab_size": "padded_vocab_size",
        "num_hidden_layers": "num_layers",
        "intermediate_size": "ffn_hidden_size",
        "num_key_value_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
        "rms_norm_eps": "layernorm_epsilon",
        "max_position_embeddings": "seq_length",
    },
    derive=_derive,
    reads=frozenset(
        {
            *_SERVED,
            "add_bias_linear",
            "add_qkv_bias",
            "position_encoding_2d",
            "pre_seq_len",
            "quantization_bit",
            "rope_ratio",
        }
    ),
    ignores=frozenset(
        {
            "apply_query_key_layer_scaling",
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "classifier_dropout",
            "fp32_residual_connection",
            "hidden_dropout",
            "interleaved_qkv",
            "num_hidden_layers",
            "original_rope",
            "vocab_size",
        }
    ),
)
CHATGLM_FOR_GENERATION = replace(CHATGLM, name="ChatGLMForConditionalGeneration")
