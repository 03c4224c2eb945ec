"""The supported model families: how each one's config.json departs from Llama's. Torch-free.

Knows names and defaults only (those of transformers' configuration classes); there is one decoder for all families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from multiflora_engine.models.errors import ModelError

SlidingWindows = Literal["never", "every_layer", "if_switched_on"]


@dataclass(frozen=True)
class Family:
    """One architecture; all that are served stand in `FAMILIES`."""

    name: str  # as config.json gives it in `architectures`
    model_type: str  # as config.json gives it under this key
    has_fused_projections: bool = False  # the checkpoint holds qkv_proj and gate_up_proj
    has_qk_norm: bool = False  # RMS norm of each head's q and k
    qkv_bias: bool = False  # always there, whatever config.json says
    reads_attention_bias: bool = False  # q, k, v and o have one if config.json says so
    reads_mlp_bias: bool = False  # gate, up and down have one if config.json says so
    sliding: SlidingWindows = "never"  # which layers have a window where `layer_types` does not say
    reads_layer_types: bool = False  # layers without a window may stand between others
    rotates_part_of_a_head: bool = False  # partial_rotary_factor is read
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of keys that may be absent, beside `COMMON_DEFAULTS`


COMMON_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "max_window_layers": 28,
        "max_position_embeddings": 2048,
    }
)

FAMILIES = (
    Family("LlamaForCausalLM", "llama", reads_attention_bias=True, reads_mlp_bias=True),
    Family(
        "MistralForCausalLM",
        "mistral",
        sliding="every_layer",
        reads_layer_types=True,
        defaults={"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
    ),
    Family(
        "Qwen2ForCausalLM",
        "qwen2",
        qkv_bias=True,
        sliding="if_switched_on",
        reads_layer_types=True,
        defaults={"num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 32768},
    ),
    Family(
        "Qwen3ForCausalLM",
        "qwen3",
        has_qk_norm=True,
        reads_attention_bias=True,
        sliding="if_switched_on",
        reads_layer_types=True,
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_position_embeddings": 32768,
        },
    ),
    Family(
        "Phi3ForCausalLM",
        "phi3",
        has_fused_projections=True,
        sliding="every_layer",
        rotates_part_of_a_head=True,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096},
    ),
)


def find_family(raw: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises ModelError naming what was found and what is supported."""
    named = raw.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if not names:
        names = [family.name for family in FAMILIES if family.model_type == raw.get("model_type")]
    for family in FAMILIES:
        if family.name in names:
            return family
    found = ", ".join(names) or str(raw.get("model_type") or "none is named")
    supported = ", ".join(family.name for family in FAMILIES)
    raise ModelError(f"The architecture is not supported: {found}. Serve one of these: {supported}.")
