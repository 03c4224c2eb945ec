"""OLMo 3: OLMo 2 of which three of four layers have a window, and a rotation that is not scaled.

Source: transformers, models/olmo3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.form import Form, all_but_every
from multiflora_engine.models.families.llama_like.olmo2 import OLMO2


def _form(fields: ConfigFields) -> Form:
    return replace(
        OLMO2.form(fields),
        sliding="every_layer",
        windowed_layers=all_but_every(4, fields.integer("num_hidden_layers")),
        reads_layer_types=True,
        has_local_rope=True,
    )


def _derive(raw: Mapping[str, Any]) -> dict[str, Any]:
    """As in transformers, rope_theta is that of layers without a window; the others have 500,000 unless
    rope_parameters says otherwise."""
    return {"rope_local_base_freq": 5e5}


OLMO3 = Family(
    "Olmo3ForCausalLM",
    "olmo3",
    _form,
    defaults={**OLMO2.defaults, "rope_theta": 5e5, "sliding_window": 4096},
    derive=_derive,
    reads=OLMO2.reads | {"sliding_window"},
)
