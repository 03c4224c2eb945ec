"""Qwen 3: Llama whose query and key heads are normed before they are turned. Source: transformers, models/qwen3."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, ModuleNames

_MODULES = ModuleNames(q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")


def _form(fields: ConfigFields) -> Form:
    has_bias = fields.flag("attention_bias", False)
    return Form(_MODULES, qkv_bias=has_bias, o_bias=has_bias, sliding="if_switched_on", reads_layer_types=True)


QWEN3 = Family(
    "Qwen3ForCausalLM",
    "qwen3",
    _form,
    defaults={
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
    reads=frozenset({"attention_bias", "sliding_window", "use_sliding_window", "max_window_layers"}),
)
