"""Phi 1, 1.5 and 2: attention and MLP side by side on one norm, biases everywhere. Source: transformers, models/phi."""

from __future__ import annotations

from multiflora_engine.models.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(
    o="self_attn.dense", mlp_norm=None, up=("mlp.fc1",), down="mlp.fc2", norm="model.final_layernorm"
)


def _form(fields: ConfigFields) -> Form:
    fields.require("qk_layernorm", served=False, fallback=False)
    return Form(
        _MODULES,
        norm="layer",
        norm_has_bias=True,
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
