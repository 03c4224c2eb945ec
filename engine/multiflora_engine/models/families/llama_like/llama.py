"""Llama 1 to 3 and what is built like it. Source: transformers, models/llama."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form


def _form(fields: ConfigFields) -> Form:
    has_bias, mlp_bias = fields.flag("attention_bias", False), fields.flag("mlp_bias", False)
    return Form(qkv_bias=has_bias, o_bias=has_bias, up_bias=mlp_bias, down_bias=mlp_bias)


LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    _form,
    defaults={"rms_norm_eps": 1e-6},
    reads=frozenset({"attention_bias", "mlp_bias"}),
)
