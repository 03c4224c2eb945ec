"""The parts of conversations' messages, and the documents in them and beside them: what is said of each besides its
text, and an order that comes from their content, so that the same set makes the same prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import groupby
from typing import Any, Literal

Order = Literal["given", "any"]
"""any: the order says nothing, so the server chooses it."""
DOCUMENT = "document"
"""The type of a message's part that is one of several documents."""
_EXACT = (None, "exact")


def parts_of(messages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Of all messages that have parts, in order. What is no message, or no part, is left to the one who checks them."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def asks_for_reuse(document: dict[str, Any]) -> bool:
    """Whether a document, or a part that is one, asks for another reuse than the exact one that all have."""
    return document.get("reuse") not in _EXACT


def without_reuse(document: dict[str, Any]) -> dict[str, Any]:
    """As templates see it: how its KV is computed is none of its content."""
    return {name: value for name, value in document.items() if name != "reuse"} if "reuse" in document else document


def by_digest(documents: Iterable[Any]) -> list[Any]:
    """JSON values, sorted by their content; the order of keys within them counts for nothing."""
    return sorted(documents, key=_digest)


def with_sorted_parts(message: Any) -> Any:
    """The message with each run of document parts sorted; what stands between such runs stays where it is. What is no
    message is left to the one who checks them."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    parts: list[Any] = []
    for are_documents, found in groupby(content, _is_document):
        run = list(found)
        parts += by_digest(run) if are_documents else run
    return {**message, "content": parts}


def _is_document(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == DOCUMENT


def _digest(document: Any) -> bytes:
    content = without_reuse(document) if isinstance(document, dict) else document
    # Half characters are no UTF-8, and are refused by the tokenizer.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
