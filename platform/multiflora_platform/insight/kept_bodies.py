"""What the last requests asked and were answered, for admins; only where `--log-bodies` asks for it.

In memory and up to a number of bytes: the oldest goes first, and nothing is written anywhere.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from multiflora_platform.insight.views import KeptBody
from multiflora_platform.observability.observers import NewTokens, Observer

MOST_BYTES = 64 << 20
_TOKEN_BYTES = array("i").itemsize


class KeptBodies:
    """decode: token ids to text, for answers that are looked at."""

    def __init__(self, decode: Callable[[list[int]], str], most_bytes: int = MOST_BYTES) -> None:
        self._decode = decode
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _Exchange] = OrderedDict()
        self._size = 0

    def open(self, id: str, body: msgspec.Struct) -> Observer:
        """Keeps the body of one prompt's request now, and its answers as they come."""
        exchange = self._kept[id] = _Exchange(self, id, msgspec.json.encode(body))
        self._grow(exchange, len(exchange.body))
        return exchange

    def find(self, id: str) -> KeptBody | None:
        exchange = self._kept.get(id)
        if exchange is None:
            return None
        answers = [self._decode(list(ids)) for _, ids in sorted(exchange.answers.items())]
        return KeptBody(msgspec.Raw(exchange.body), answers)

    def add_tokens(self, id: str, count: int) -> None:
        exchange = self._kept.get(id)
        if exchange is not None:
            self._grow(exchange, count * _TOKEN_BYTES)

    def _grow(self, exchange: _Exchange, size: int) -> None:
        exchange.size += size
        self._size += size
        while self._size > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size


class _Exchange(Observer):
    """answers: the token ids of each."""

    def __init__(self, bodies: KeptBodies, id: str, body: bytes) -> None:
        self._bodies = bodies
        self._id = id
        self.body = body
        self.size = 0
        self.answers: dict[int, array[int]] = {}

    def tokens(self, new: NewTokens) -> None:
        self.answers.setdefault(new.index, array("i")).extend(new.token_ids)
        self._bodies.add_tokens(self._id, len(new.token_ids))
