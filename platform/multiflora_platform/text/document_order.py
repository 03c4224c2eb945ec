"""Documents in an order that comes from their content: by digest, so that the same set makes the same prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from itertools import groupby
from typing import Any, Literal

Order = Literal["given", "any"]
"""any: the order says nothing, so the server chooses it."""
DOCUMENT = "document"
"""The type of a message's part that is one of several documents."""


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
    # Half characters are no UTF-8, and are refused by the tokenizer.
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
