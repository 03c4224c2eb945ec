"""MPT: ALiBi, or learned positions, or none; no biases at all.

Source: transformers, models/mpt; alibi_bias_max and positions other than ALiBi as in the models' own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.alibi import interleaved_slopes
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames, Scales

_MODULES = ModuleNames(
    embedding="transformer.wte",
    layers="transformer.blocks",
    input_norm="norm_1",
    qkv=("attn.Wqkv",),
    o="attn.out_proj",
    mlp_norm="norm_2",
    up=("ffn.up_proj",),
    down="ffn.down_proj",
    norm="transformer.norm_f",
    root="transformer.",
)
_LEARNED_POSITIONS = replace(_MODULES, position_embedding="transformer.wpe")
_SERVED = {
    "no_bias": True,
    "attn_config.prefix_lm": False,
    "attn_config.qk_ln": False,
    "attn_config.qk_gn": False,
    "attn_config.rope": False,
    "attn_config.attn_uses_sequence_id": False,
}
_UNSERVED = ("logit_scale", "attn_config.sliding_window_size")


def _form(fields: ConfigFields) -> Form:
    for key, value in _SERVED.items():
        fields.require(key, served=value)
    if fields.text("attn_config.attn_type") != "multihead_attention":
        raise ModelError("config.json: attn_config.attn_type other than multihead_attention is not served.")
    if "layernorm" not in fields.text("norm_type"):
        raise ModelError("config.json: norm_type other than layernorm is not served.")
    for key in _UNSERVED:
        if fields.given(key):
            raise ModelError(f"config.json: {key} is set, which is not served.")
    has_slopes = fields.flag("attn_config.alibi")
    largest = fields.integer("attn_config.alibi_bias_max")
    return Form(
        _LEARNED_POSITIONS if not has_slopes and fields.flag("learned_pos_emb", True) else _MODULES,
        norm="layer",
        is_gated=False,
        is_multi_head=True,
        qkv_limit=fields.optional_number("attn_config.clip_qkv"),
        rotates=False,
        scales=Scales(attention=fields.optional_number("attn_config.softmax_scale")),
        slopes=interleaved_slopes(fields.integer("num_attention_heads"), largest) if has_slopes else (),
    )


def _form_in_transformers(fields: ConfigFields) -> Form:
    # Its class has ALiBi whatever the file says.
    fields.require("attn_config.alibi", served=True)
    return _form(fields)


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What attn_config holds stands beside it here, under names that say where it was."""
    attention, hidden, ratio = raw.get("attn_config") or {}, raw.get("d_model"), raw.get("expansion_ratio", 4)
    if not isinstance(attention, dict):
        raise ModelError("config.json: attn_config has to be an object. Download or save the model again.")
    derived = {f"attn_config.{key}": value for key, value in attention.items()}
    if derived.get("attn_config.sliding_window_size") == -1:
        del derived["attn_config.sliding_window_size"]  # there is no window
    if isinstance(hidden, int) and isinstance(ratio, int):
        derived["intermediate_size"] = hidden * ratio
    return derived


MPT = Family(
    "MPTForCausalLM",
    "mpt",
    _form,
    defaults={
        **_SERVED,
        "attn_config.alibi": True,
        "rms_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
        "norm_type": "low_precision_layernorm",
        "attn_config.attn_type": "multihead_attention",
        "attn_config.alibi_bias_max": 8,
    },
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "max_position_embeddings": "max_seq_len",
        "rms_norm_eps": "layer_norm_epsilon",
    },
    derive=_derive,
    reads=frozenset({"attn_config", "expansion_ratio", "learned_pos_emb", "logit_scale", "no_bias", "norm_type"}),
    ignores=frozenset(
        {
            "emb_pdrop",
            "embedding_fraction",
            "init_config",
            "init_device",
            "tokenizer_name",
            "verbose",
        }
    ),
)
MPT_IN_TRANSFORMERS = replace(MPT, name="MptForCausalLM", form=_form_in_transformers)
