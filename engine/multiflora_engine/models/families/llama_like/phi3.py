"""Phi 3, 3.5 and 4: Llama whose projections are stored stacked. Source: transformers, models/phi3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(qkv=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",))


def _form(fields: ConfigFields) -> Form:
    return Form(_MODULES, sliding="every_layer", rotates_part_of_a_head=True)


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Early files say "yarn" and mean what is called longrope today."""
    scaled = {key: raw[key] for key in ("rope_scaling", "rope_parameters") if isinstance(raw.get(key), dict)}
    return {
        key: {**values, "rope_type": "longrope"}
        for key, values in scaled.items()
        if (values.get("rope_type") or values.get("type")) == "yarn"
    }


PHI3 = Family(
    "Phi3ForCausalLM",
    "phi3",
    _form,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
    },
    derive=_derive,
    reads=frozenset({"sliding_window", "use_sliding_window", "max_window_layers"}),
)
