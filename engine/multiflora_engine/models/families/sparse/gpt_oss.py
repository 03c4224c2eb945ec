"""gpt-oss: mixtures of experts with biases and a clamped gate, attention with sinks, a window in every other layer.

Source: transformers, models/gpt_oss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames, all_but_every
from multiflora_engine.models.families.mixture import ClampedGate, Mixture, MixtureNames, read_top_k

_MODULES = ModuleNames(sinks="self_attn.sinks")
_NAMES = MixtureNames(router="mlp.router", router_in_transformers="mlp.router", up=("gate_up_proj",))
_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("attention_bias", True)
    num_experts = fields.integer("num_local_experts", 128)
    # The softmax over the chosen experts' logits is the chosen part of that over all, normalised.
    mixture = Mixture(
        num_experts,
        read_top_k(fields, num_experts, 4),
        fields.integer("intermediate_size"),
        is_normalised=True,
        names=_NAMES,
        has_biases=True,
        gate=ClampedGate(fields.number("swiglu_alpha", 1.702), fields.number("swiglu_limit", 7.0)),
        is_interleaved=True,
    )
    return Form(
        _MODULES,
        norm_in_float32=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        sliding="every_layer",
        windowed_layers=all_but_every(2, fields.integer("num_hidden_layers")),
        reads_layer_types=True,
        mixture=mixture,
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    derived = {} if raw.get("rope_scaling") or raw.get("rope_parameters") else {"rope_scaling": _ROPE}
    return derived | ({"num_local_experts": raw["num_experts"]} if "num_experts" in raw else {})


GPT_OSS = Family(
    "GptOssForCausalLM",
    "gpt_oss",
    _form,
    defaults={
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 2880,
        "sliding_window": 128,
        "max_position_embeddings": 131072,
    },
    derive=_derive,
    reads=frozenset(
        {
            "attention_bias",
            "num_experts",
            "num_experts_per_tok",
            "num_local_experts",
            "sliding_window",
            "swiglu_alpha",
            "swiglu_limit",
        }
    ),
    ignores=frozenset({"experts_per_token", "initial_context_length", "router_aux_loss_coef"}),
)
