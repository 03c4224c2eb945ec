"""Mistral: Llama with a sliding window. Source: transformers, models/mistral."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form


def _form(fields: ConfigFields) -> Form:
    return Form(sliding="every_layer", reads_layer_types=True)


MISTRAL = Family(
    "MistralForCausalLM",
    "mistral",
    _form,
    defaults={
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
    reads=frozenset({"sliding_window", "use_sliding_window", "max_window_layers"}),
)
