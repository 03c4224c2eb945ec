"""What the last requests asked and were answered, for admins; only where `--log-bodies` asks for it.

In memory and up to a number of bytes: the oldest goes first, and nothing is written anywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from multiflora_platform.insight.views.requests import KeptBody
from multiflora_platform.observability.observers import NewTokens, Observer

MOST_BYTES = 64 << 20
_PIECE_BYTES = 60


class KeptBodies:
    """Answers are kept as the text that went out, which is not all that their tokens say."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _Exchange] = OrderedDict()
        self._size = 0

    def open(self, id: str, tenant: str | None, body: msgspec.Struct) -> Observer:
        """Keeps the body of one prompt's request now, and its answers as they come. tenant: None: the admins'."""
        exchange = self._kept[id] = _Exchange(self, id, tenant, msgspec.json.encode(body))
        self._grow(exchange, len(exchange.body))
        return exchange

    def find(self, id: str) -> KeptBody | None:
        exchange = self._kept.get(id)
        if exchange is None:
            return None
        answers = ["".join(pieces) for _, pieces in sorted(exchange.answers.items())]
        return KeptBody(msgspec.Raw(exchange.body), answers)

    def askers(self, prompt: str | None, messages: Any) -> set[str | None]:
        """The tenants whose requests, of those that are kept, asked this, alone or among other prompts."""
        found = set()
        # Most bodies are passed over without being read as JSON.
        text = messages[-1].get("content") if prompt is None else prompt
        part = msgspec.json.encode(text) if isinstance(text, str) else b""
        for exchange in self._kept.values():
            if exchange.tenant not in found and part in exchange.body:
                body = msgspec.json.decode(exchange.body)
                prompts = body.get("prompt")
                asked = prompt in (prompts if isinstance(prompts, list) else [prompts])
                if asked if prompt is not None else body.get("messages") == messages:
                    found.add(exchange.tenant)
        return found

    def added(self, id: str, num_bytes: int) -> None:
        exchange = self._kept.get(id)
        if exchange is not None:
            self._grow(exchange, num_bytes)

    def _grow(self, exchange: _Exchange, size: int) -> None:
        exchange.size += size
        self._size += size
        while self._size > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size


class _Exchange(Observer):
    """answers: the pieces of each one's text."""

    def __init__(self, bodies: KeptBodies, id: str, tenant: str | None, body: bytes) -> None:
        self._bodies = bodies
        self._id = id
        self.tenant = tenant
        self.body = body
        self.size = 0
        self.answers: dict[int, list[str]] = {}

    def tokens(self, new: NewTokens) -> None:
        pieces = self.answers.setdefault(new.index, [])
        if new.text:
            pieces.append(new.text)
            # With its place in the list, a piece of a few characters takes some sixty bytes.
            self._bodies.added(self._id, _PIECE_BYTES + len(new.text.encode()))
