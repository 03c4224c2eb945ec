"""What generation_config.json advises for requests that say nothing themselves, checked like a request. Torch-free.

Knows the values' ranges from the sampling parameters; its end tokens are config.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.protocol.sampling_ranges import InvalidParameter

SAMPLING_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""By generation_config.json's names, what SamplingParams calls them."""
_INTEGERS = {"top_k", "max_new_tokens"}


def generation_defaults(generation: Mapping[str, Any]) -> tuple[dict[str, float], tuple[str, ...]]:
    """The values that requests may fall back to, and a sentence for each one that no request could use."""
    values: dict[str, float] = {}
    problems = []
    for name in SAMPLING_NAMES:
        value = generation.get(name)
        if value is None:
            continue
        if name in _INTEGERS and isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            _verify(name, value)
        except InvalidParameter as problem:
            problems.append(f"generation_config.json: {problem}. It is ignored; correct or remove it.")
        else:
            values[name] = value
    return values, tuple(problems)


def _verify(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number:
        raise InvalidParameter(name, "a number", value)
    if name == "max_new_tokens" and (not isinstance(value, int) or value < 1):
        raise InvalidParameter(name, "an integer of at least 1", value)
    SamplingParams(**{SAMPLING_NAMES[name]: value})
