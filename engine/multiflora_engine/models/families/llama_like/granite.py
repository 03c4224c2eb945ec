"""Granite 3 and 4 (dense): Llama with four multipliers. Source: transformers, models/granite."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, Scales


def _form(fields: ConfigFields) -> Form:
    has_bias, mlp_bias = fields.flag("attention_bias", False), fields.flag("mlp_bias", False)
    return Form(
        qkv_bias=has_bias,
        o_bias=has_bias,
        up_bias=mlp_bias,
        down_bias=mlp_bias,
        scales=Scales(
            embedding=fields.number("embedding_multiplier", 1.0),
            attention=fields.number("attention_multiplier", 1.0),
            residual=fields.number("residual_multiplier", 1.0),
            logits=1.0 / fields.number("logits_scaling", 1.0),
        ),
    )


GRANITE = Family(
    "GraniteForCausalLM",
    "granite",
    _form,
    defaults={"rms_norm_eps": 1e-6},
    reads=frozenset(
        {
            "attention_bias",
            "mlp_bias",
            "embedding_multiplier",
            "attention_multiplier",
            "residual_multiplier",
            "logits_scaling",
        }
    ),
)
