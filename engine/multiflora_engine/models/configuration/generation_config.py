"""What generation_config.json advises for requests that say nothing themselves, checked like a request, and which
tokens end an answer. Torch-free.

Knows the values' ranges from the sampling parameters.
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


def end_tokens(
    generation: Mapping[str, Any], config: Mapping[str, Any], vocab_size: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Of generation_config.json, or else of config.json, and a sentence for each entry that is no token here."""
    ids: list[int] = []
    problems = []
    for source, values in (("generation_config.json", generation), ("config.json", config)):
        named = values.get("eos_token_id")
        for token in named if isinstance(named, list) else [] if named is None else [named]:
            if is_token(token, vocab_size):
                ids.append(int(token))
            else:
                problems.append(
                    f"{source}: eos_token_id has {str(token)[:80]!r}, no token from 0 to {vocab_size - 1}. It is "
                    "ignored; correct or remove it."
                )
        if ids:
            break
    return tuple(dict.fromkeys(ids)), tuple(problems)


def is_token(value: object, vocab_size: int) -> bool:
    """8.0 is one, too."""
    is_integer = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return is_integer and not isinstance(value, bool) and 0 <= value < vocab_size  # type: ignore[operator]


def _verify(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number:
        raise InvalidParameter(name, "a number", value)
    if name == "max_new_tokens" and (not isinstance(value, int) or value < 1):
        raise InvalidParameter(name, "an integer of at least 1", value)
    SamplingParams(**{SAMPLING_NAMES[name]: value})
