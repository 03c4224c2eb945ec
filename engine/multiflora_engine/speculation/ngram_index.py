"""Where in a text its last tokens have stood before. Owns a copy of the text; knows nothing of sequences or drafts.

The longest common suffix is found as compressors find theirs (the hash chains of LZ77's deflate): from each n-gram to
its occurrence before, so that a new token costs the same however long the text is.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_MOST_CANDIDATES = 8
"""Occurrences that are compared, latest first: a common n-gram of a long text has thousands."""


class Match(NamedTuple):
    """follows: the position behind an earlier occurrence of the text's last `length` tokens."""

    follows: int
    length: int


class NgramIndex:
    """token_ids: the text so far, read once. order: tokens of an n-gram, what a match has at least. longest: tokens
    beyond which a match is not compared."""

    def __init__(self, token_ids: list[int], order: int, longest: int) -> None:
        self._tokens = list(token_ids)
        self._order = order
        self._longest = max(order, longest)
        # By n-gram, where its last occurrence ends; the n-gram at the very end of the text is not in it yet.
        self._last: dict[int, int] = {}
        # By position, where the same n-gram ended before; -1: nowhere.
        self._before = array("i")
        self._index_all()

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    def extend(self, token_ids: list[int]) -> None:
        """The text goes on with these."""
        for token in token_ids:
            if self._tokens:
                self._register(len(self._tokens) - 1)
            self._tokens.append(token)

    def longest_match(self) -> Match | None:
        """The occurrence that shares the most tokens with the end of the text, the latest of equals."""
        end, best = len(self._tokens) - 1, Match(0, 0)
        if end + 1 < self._order:
            return None
        position = self._last.get(self._key(end), -1)
        for _ in range(_MOST_CANDIDATES):
            if position < 0 or best.length >= self._longest:
                break
            length = self._common_suffix(position, end)
            if length > best.length:
                best = Match(position + 1, length)
            position = self._before[position]
        # Different n-grams may have one key.
        return best if best.length >= self._order else None

    def following(self, position: int, count: int) -> list[int]:
        """What stands from there on, `count` tokens; a text that ends before is thought to repeat what it has."""
        found = self._tokens[position : position + count]
        return (found * -(-count // len(found)))[:count]

    def _key(self, end: int) -> int:
        key = 0
        for token in self._tokens[end - self._order + 1 : end + 1]:
            key = (key * _MULTIPLIER + token) & _MASK
        return key

    def _common_suffix(self, position: int, end: int) -> int:
        tokens, most = self._tokens, min(self._longest, position + 1)
        length = 0
        while length < most and tokens[position - length] == tokens[end - length]:
            length += 1
        return length

    def _register(self, end: int) -> None:
        """end: the next position, in order."""
        if end + 1 < self._order:
            self._before.append(-1)
            return
        key = self._key(end)
        self._before.append(self._last.get(key, -1))
        self._last[key] = end

    def _index_all(self) -> None:
        """As if all but the last position were registered one by one, at a hundredth of the time."""
        count = len(self._tokens) - self._order
        head = max(0, min(self._order, len(self._tokens)) - 1)
        if count <= 0:
            self._before.extend([-1] * max(0, len(self._tokens) - 1))
            return
        tokens = np.array(self._tokens, dtype=np.int64).astype(np.uint64)
        keys = np.zeros(count, dtype=np.uint64)
        for place in range(self._order):
            keys = keys * np.uint64(_MULTIPLIER) + tokens[place : place + count]
        by_key = np.argsort(keys, kind="stable")
        same = keys[by_key[1:]] == keys[by_key[:-1]]
        before = np.full(count, -1, dtype=np.int32)
        before[by_key[1:][same]] = by_key[:-1][same] + head
        self._before.extend([-1] * head)
        self._before.frombytes(before.tobytes())
        self._last = dict(zip(keys.tolist(), range(head, head + count), strict=True))
