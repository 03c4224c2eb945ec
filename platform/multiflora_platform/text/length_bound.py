"""How few tokens a text can have, told from its length alone: most texts that cannot fit need no tokenising.

Sound only where each character of a text ends up in a token, and no token stands for more characters than it is long:
byte-level BPE, and BPE with byte fallback, without a step that may drop or join characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_NORMALISERS = {"Prepend", "Lowercase"}
_PRE_TOKENISERS = {"ByteLevel", "Metaspace", "Digits"}


def longest_token(definition: Mapping[str, Any]) -> int | None:
    """Characters that a token stands for at the most; None where a text's length says nothing.

    definition: a tokenizer.json.
    """
    model, added = definition["model"], definition.get("added_tokens") or []
    keeps_characters = (
        model.get("type") == "BPE"
        and all(_keeps_text(step) for step in _steps(definition.get("normalizer"), "normalizers"))
        and all(_keeps_pieces(step) for step in _steps(definition.get("pre_tokenizer"), "pretokenizers"))
        # Such a token takes any number of spaces around it with it.
        and not any(token.get("lstrip") or token.get("rstrip") for token in added)
        # Unknown characters would become one token together, or none.
        and (model.get("byte_fallback") or _is_byte_level(definition.get("pre_tokenizer")))
    )
    if not keeps_characters:
        return None
    return max(map(len, [*model["vocab"], *(token["content"] for token in added)]), default=None)


def _steps(part: Mapping[str, Any] | None, key: str) -> Iterable[Mapping[str, Any]]:
    if part is None:
        return ()
    return [step for inner in part[key] for step in _steps(inner, key)] if part.get("type") == "Sequence" else (part,)


def _keeps_text(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "Replace":
        pattern = step.get("pattern", {}).get("String")
        return isinstance(pattern, str) and len(step.get("content", "")) >= len(pattern) > 0
    return step.get("type") in _NORMALISERS


def _keeps_pieces(step: Mapping[str, Any]) -> bool:
    return step.get("type") in _PRE_TOKENISERS or (step.get("type") == "Split" and step.get("behavior") != "Removed")


def _is_byte_level(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    return any(step.get("type") == "ByteLevel" for step in _steps(pre_tokenizer, "pretokenizers"))
