"""Phi 1, 1.5 and 2: attention and MLP side by side on one norm, biases everywhere. Source: transformers, models/phi."""

from __future__ import annotations

from dataclasses import replace

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    o="self_attn.dense", mlp_norm=None, up=("mlp.fc1",), down="mlp.fc2", norm="model.final_layernorm"
)
_NORMED_HEADS = replace(_MODULES, q_norm="self_attn.q_layernorm", k_norm="self_attn.k_layernorm")


def _form(fields: ConfigFields) -> Form:
    return Form(
        _NORMED_HEADS if fields.flag("qk_layernorm", False) else _MODULES,
        norm="layer",
        norm_has_bias=True,
        qk_norm_has_bias=True,
        is_parallel=True,
        is_gated=False,
        qkv_bias=True,
        o_bias=True,
        up_bias=True,
        down_bias=True,
        head_bias=True,
        rotates_part_of_a_head=True,
    )


PHI = Family(
    "PhiForCausalLM",
    "phi",
    _form,
    defaults={"rms_norm_eps": 1e-5, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5},
    aliases={"rms_norm_eps": "layer_norm_eps"},
    reads=frozenset({"qk_layernorm"}),
)
