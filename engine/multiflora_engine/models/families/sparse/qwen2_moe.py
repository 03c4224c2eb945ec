"""Qwen 1.5 and 2 MoE: Qwen 2 with a mixture of experts and one that sees every token.

Source: transformers, models/qwen2_moe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form
from multiflora_engine.models.families.mixture import read_qwen_mixture


def _form(fields: ConfigFields) -> Form:
    mixture = read_qwen_mixture(
        fields,
        shared_size=fields.integer("shared_expert_intermediate_size", 5632),
        num_experts=60,
        num_experts_per_tok=4,
        moe_intermediate_size=1408,
    )
    return Form(
        qkv_bias=fields.flag("qkv_bias", True),
        sliding="every_layer" if fields.flag("use_sliding_window") else "never",
        reads_layer_types=True,
        mixture=mixture,
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Other layers than in Qwen 2: those before max_window_layers, and of these every other one."""
    layers, first = raw.get("num_hidden_layers"), raw.get("max_window_layers", 28)
    is_off = raw.get("use_sliding_window") is not True or raw.get("layer_types") is not None
    if is_off or not isinstance(layers, int) or not isinstance(first, int):
        return {}
    kinds = ["sliding_attention" if i % 2 == 0 and i < first else "full_attention" for i in range(layers)]
    return {"layer_types": kinds}


QWEN2_MOE = Family(
    "Qwen2MoeForCausalLM",
    "qwen2_moe",
    _form,
    defaults={
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 16,
        "intermediate_size": 5632,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
    derive=_derive,
    reads=frozenset(
        {
            "qkv_bias",
            "sliding_window",
            "use_sliding_window",
            "max_window_layers",
            "num_experts",
            "num_experts_per_tok",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "norm_topk_prob",
            "decoder_sparse_step",
            "mlp_only_layers",
        }
    ),
    ignores=frozenset({"router_aux_loss_coef"}),
)
