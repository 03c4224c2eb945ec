"""vLLM's words for speculation, in one object or in a name, as settings. Knows no other options."""

from __future__ import annotations

from multiflora_platform.vllm_options.rules import as_text, mapping

_METHODS = frozenset({"ngram", "[ngram]"})
_SIZES = {
    "num_speculative_tokens": "num_speculative_tokens",
    "prompt_lookup_max": "prompt_lookup_max",
    "prompt_lookup_min": "prompt_lookup_min",
    "disable_by_batch_size": "speculative_disable_by_batch_size",
}
"""Our settings, by the object's keys."""


def is_prompt_lookup(value: object) -> bool:
    """The name of a method, or of a draft model. Raises ValueError for all but prompt lookup."""
    if as_text(value) not in _METHODS:
        raise ValueError("tokens are drafted by prompt lookup alone; give ngram, or leave it out")
    return True


def speculation(value: object) -> dict[str, object]:
    """--speculative-config. Raises ValueError, which names the key."""
    content = mapping(value)
    method = content.get("method") or content.get("model")
    try:
        enabled = is_prompt_lookup(method)
    except ValueError as error:
        raise ValueError(f"method {method!r}: {error}" if method else f"it has no method: {error}") from None
    known = {"method", "model", *_SIZES}
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"it has no key {unknown[0]!r}; there are {', '.join(sorted(known))}")
    settings: dict[str, object] = {"enable_prompt_lookup": enabled}
    settings |= {_SIZES[key]: size for key, size in content.items() if key in _SIZES and size is not None}
    # vLLM's rule where only one of the two is given.
    if ("prompt_lookup_max" in settings) != ("prompt_lookup_min" in settings):
        only = settings.get("prompt_lookup_max", settings.get("prompt_lookup_min"))
        settings |= {"prompt_lookup_max": only, "prompt_lookup_min": only}
    return settings
