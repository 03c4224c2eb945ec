"""What a call of LLM was given: one for all prompts or one for each, under vLLM's names or ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any, SupportsIndex

from multiflora.lora_request import LoRARequest
from multiflora.request_maker import Prompt, no_prompt
from multiflora_engine.protocol.sampling_params import SamplingParams


def either(name: str, given: Any, other_name: str, other: Any) -> Any:
    """Of two names for one argument, the one that was used. Raises TypeError when both were, differently."""
    if given is None or other is None:
        return other if given is None else given
    if given is other or (type(given) is type(other) and given == other):
        return given
    raise TypeError(f"{name} and {other_name} are two names of one argument and differ; give one of them")


def as_list(prompts: Any) -> list[Prompt]:
    """One prompt, as text, ids or under its key, or an iterable of these. Raises TypeError for what is neither."""
    if isinstance(prompts, str | Mapping):
        return [prompts]  # type: ignore[list-item]  # a mapping is looked into later
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes):
        raise no_prompt(prompts)
    items = list(prompts)
    if items and isinstance(items[0], SupportsIndex) and not isinstance(items[0], Sized):
        return [items]  # the ids of one prompt
    return items


def for_each(value: Any, count: int, name: str) -> list[Any]:
    """Raises ValueError when there is neither one nor one for each, TypeError for what can be neither."""
    if value is None or isinstance(value, str | int | SamplingParams | LoRARequest):
        return [value] * count
    if not isinstance(value, Iterable) or not isinstance(value, Sized) or isinstance(value, Mapping):
        raise TypeError(f"{name} is one for all prompts or a list of one for each, not {type(value).__name__}")
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries for {count} prompts")
    return list(value)


def require_params(params: list[Any]) -> list[SamplingParams]:
    """Raises TypeError for what is something else."""
    for each in params:
        if not isinstance(each, SamplingParams):
            raise TypeError(f"sampling parameters are SamplingParams, not {type(each).__name__}: {str(each)[:80]}")
    return params
