"""Qwen 3 MoE: Qwen 3 with a mixture of experts. Source: transformers, models/qwen3_moe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames
from multiflora_engine.models.families.mixture import read_qwen_mixture

_MODULES = ModuleNames(q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("attention_bias", False)
    return Form(
        _MODULES,
        qkv_bias=has_bias,
        o_bias=has_bias,
        sliding="every_layer" if fields.flag("use_sliding_window") else "never",
        mixture=read_qwen_mixture(
            fields, shared_size=None, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768
        ),
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The hub's files say num_experts, transformers 5 writes num_local_experts."""
    return {"num_experts": raw["num_local_experts"]} if "num_local_experts" in raw else {}


QWEN3_MOE = Family(
    "Qwen3MoeForCausalLM",
    "qwen3_moe",
    _form,
    defaults={
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 4,
        "intermediate_size": 6144,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
    derive=_derive,
    reads=frozenset(
        {
            "attention_bias",
            "sliding_window",
            "use_sliding_window",
            "max_window_layers",
            "num_experts",
            "num_local_experts",
            "num_experts_per_tok",
            "moe_intermediate_size",
            "norm_topk_prob",
            "decoder_sparse_step",
            "mlp_only_layers",
        }
    ),
    ignores=frozenset({"router_aux_loss_coef"}),
)
