"""Qwen 2 and 2.5: Llama with biases of q, k and v. Source: transformers, models/qwen2."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form


def _form(fields: ConfigFields) -> Form:
    return Form(qkv_bias=True, sliding="if_switched_on", reads_layer_types=True)


QWEN2 = Family(
    "Qwen2ForCausalLM",
    "qwen2",
    _form,
    defaults={
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
    reads=frozenset({"sliding_window", "use_sliding_window", "max_window_layers"}),
)
