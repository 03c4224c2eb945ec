"""SmolLM 3: Llama of which some layers turn nothing (NoPE). Source: transformers, models/smollm3."""

from __future__ import annotations

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form


def _form(fields: ConfigFields) -> Form:
    layers, interval = fields.integer("num_hidden_layers"), fields.integer("no_rope_layer_interval", 4)
    by_default = tuple(int((layer + 1) % interval != 0) for layer in range(layers))
    # In spite of the key's name, a 1 says that the layer turns.
    turns = fields.integers("no_rope_layers", by_default)
    if len(turns) < layers:
        raise ModelError(f"config.json: no_rope_layers has {len(turns)} entries for {layers} layers.")
    still = frozenset(layer for layer in range(layers) if not turns[layer])
    has_bias, mlp_bias = fields.flag("attention_bias", False), fields.flag("mlp_bias", False)
    return Form(
        qkv_bias=has_bias,
        o_bias=has_bias,
        up_bias=mlp_bias,
        down_bias=mlp_bias,
        sliding="if_switched_on",
        windowed_layers=still,
        reads_layer_types=True,
        unrotated_layers=still,
    )


SMOLLM3 = Family(
    "SmolLM3ForCausalLM",
    "smollm3",
    _form,
    defaults={
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 2e6,
        "tie_word_embeddings": True,
    },
    reads=frozenset(
        {
            "attention_bias",
            "mlp_bias",
            "no_rope_layers",
            "no_rope_layer_interval",
            "sliding_window",
            "use_sliding_window",
        }
    ),
)
