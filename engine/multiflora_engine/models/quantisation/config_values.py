"""Values of config.json's quantization_config that several methods have, with errors that name the key. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.settings import Settings

SOURCE = "config.json: quantization_config"

Rules = tuple[tuple[re.Pattern[str], Settings | None], ...]


def names_of(found: Mapping[str, Any], key: str) -> list[str]:
    """A list of modules; none where the key is absent."""
    names = found.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{SOURCE}: {key} has to be a list of names.")
    return names


def skip_rules(found: Mapping[str, Any], *keys: str) -> Rules:
    """Lists of modules that are not quantised, read as transformers reads them: the start of a name up to a dot, as a
    pattern, or its end."""
    rules: list[tuple[re.Pattern[str], Settings | None]] = []
    for key in keys:
        names = names_of(found, key)
        rules += [(compiled(rf"(?:{name})(?:(?<=\.)|(?=\.|$))|.*{re.escape(name)}$"), None) for name in names]
    return tuple(rules)


def compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ModelError(f"{SOURCE}: {pattern[:80]!r} is no pattern ({error}).") from None


def one_of(value: int, name: str, known: tuple[int, ...]) -> int:
    if value not in known:
        served = ", ".join(map(str, known))
        raise ModelError(f"{SOURCE}: {name} is {value}; served are {served}.")
    return value


def group_size(found: Mapping[str, Any], key: str) -> int | None:
    """None: one group, which tools write as -1."""
    value = found.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or (value < 1 and value != -1):
        raise ModelError(f"{SOURCE}: {key} is {str(value)[:80]!r}; it has to be -1 or a positive integer.")
    return None if value == -1 else value


def block_size(value: object) -> tuple[int, int]:
    """Outputs and inputs that share a scale."""
    if isinstance(value, list) and len(value) == 2 and all(type(item) is int and item > 0 for item in value):
        return value[0], value[1]
    raise ModelError(f"{SOURCE}: a block is {str(value)[:80]!r}; it has to be two positive integers.")
