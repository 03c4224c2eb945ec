"""Command R7B and A: Command R of which three of four layers have a window, and those alone turn.

Source: transformers, models/cohere2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, all_but_every
from multiflora_engine.models.families.llama_like.cohere import COHERE


def _form(fields: ConfigFields) -> Form:
    if fields.optional_number("sliding_window") is None:
        raise ModelError("config.json: sliding_window is null, but layer_types or their default needs one.")
    pattern = fields.integer("sliding_window_pattern", 4)
    return replace(
        COHERE.form(fields),
        rotates_with_windows=True,
        sliding="every_layer",
        windowed_layers=all_but_every(pattern, fields.integer("num_hidden_layers")),
        reads_layer_types=True,
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' class knows no normed heads, whatever the file says."""
    return {"use_qk_norm": False}


COHERE2 = Family(
    "Cohere2ForCausalLM",
    "cohere2",
    _form,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    aliases=COHERE.aliases,
    derive=_derive,
    reads=frozenset({"attention_bias", "logit_scale", "sliding_window", "sliding_window_pattern"}),
    ignores=frozenset(
        {
            "cache_implementation",
            "layer_switch",
            "order_of_interleaved_layers",
            "position_embedding_type",
            "rotary_pct",
            "use_embedding_sharing",
            "use_gated_activation",
            "use_parallel_block",
            "use_parallel_embedding",
            "use_qk_norm",
        }
    ),
)
