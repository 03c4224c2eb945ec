"""Qwen 1: Llama with biases of q, k and v and names of its own. Source: the models' own code (modeling_qwen.py).

Up to seq_length, to which max_position_embeddings is set here, neither log-n attention nor the dynamic base has effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames, Scales

_MODULES = ModuleNames(
    embedding="transformer.wte",
    layers="transformer.h",
    input_norm="ln_1",
    qkv=("attn.c_attn",),
    o="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.w2", "mlp.w1"),
    down="mlp.c_proj",
    norm="transformer.ln_f",
    root="transformer.",
)


def _form(fields: ConfigFields) -> Form:
    has_bias = not fields.flag("no_bias", True)
    return Form(
        _MODULES,
        is_multi_head=True,
        qkv_bias=True,
        o_bias=has_bias,
        up_bias=has_bias,
        down_bias=has_bias,
        rotates_part_of_a_head=True,
        scales=Scales(attention=None if fields.flag("scale_attn_weights", True) else 1.0),
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    derived = {"rope_theta": raw.get("rotary_emb_base", 10000), "partial_rotary_factor": raw.get("rotary_pct", 1.0)}
    both = raw.get("intermediate_size")
    if isinstance(both, int):
        derived["intermediate_size"] = both // 2
    if raw.get("seq_length") is not None:
        derived["max_position_embeddings"] = raw["seq_length"]
    return derived


QWEN = Family(
    "QWenLMHeadModel",
    "qwen",
    _form,
    defaults={"rms_norm_eps": 1e-6},
    aliases={"head_dim": "kv_channels", "rms_norm_eps": "layer_norm_epsilon"},
    derive=_derive,
    reads=frozenset({"no_bias", "scale_attn_weights", "rotary_emb_base", "rotary_pct", "seq_length"}),
    ignores=frozenset(
        {
            "attn_dropout_prob",
            "emb_dropout_prob",
            "bf16",
            "fp16",
            "fp32",
            "onnx_safe",
            "softmax_in_fp32",
            "use_cache_kernel",
            "use_cache_quantization",
            "use_dynamic_ntk",
            "use_flash_attn",
            "use_logn_attn",
        }
    ),
)
