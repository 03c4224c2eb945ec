"""Mixtral: Mistral whose MLP is a mixture of experts. Source: transformers, models/mixtral."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form
from multiflora_engine.models.families.mixture import Mixture, MixtureNames, read_top_k

_NAMES = MixtureNames(
    router="block_sparse_moe.gate",
    experts="block_sparse_moe.experts",
    up=("w1", "w3"),
    down="w2",
)


def _form(fields: ConfigFields) -> Form:
    num_experts = fields.integer("num_local_experts", 8)
    mixture = Mixture(
        num_experts,
        read_top_k(fields, num_experts, 2),
        fields.integer("intermediate_size"),
        is_normalised=True,
        names=_NAMES,
    )
    return Form(sliding="every_layer", mixture=mixture)


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """transformers takes either word."""
    return {"num_local_experts": raw["num_experts"]} if "num_experts" in raw else {}


MIXTRAL = Family(
    "MixtralForCausalLM",
    "mixtral",
    _form,
    defaults={
        "intermediate_size": 14336,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    derive=_derive,
    reads=frozenset({"sliding_window", "num_local_experts", "num_experts", "num_experts_per_tok"}),
    ignores=frozenset({"router_aux_loss_coef", "router_jitter_noise"}),
)
