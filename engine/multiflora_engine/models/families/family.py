"""What each file of this folder says of its family: names, defaults, keys, and how config.json decides the form.

Torch-free. Knows names and defaults only (those of transformers' configuration classes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from multiflora_engine.models.configuration.config_fields import ConfigFields
from multiflora_engine.models.families.form import Form

COMMON_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "max_window_layers": 28,
        "max_position_embeddings": 2048,
    }
)


def _nothing_more(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One architecture; all that are served stand in `catalogue.FAMILIES`."""

    name: str  # as config.json gives it in `architectures`
    model_type: str  # as config.json gives it under this key
    form: Callable[[ConfigFields], Form]
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of keys that may be absent, beside `COMMON_DEFAULTS`
    aliases: Mapping[str, str] = field(default_factory=dict)  # Llama's word for a key -> the family's
    derive: Callable[[Mapping[str, Any]], dict[str, Any]] = _nothing_more  # config.json -> values in Llama's words
    reads: frozenset[str] = frozenset()  # keys beyond those that all families read, by the family's own names
    ignores: frozenset[str] = frozenset()  # keys of its configuration class that change nothing here
