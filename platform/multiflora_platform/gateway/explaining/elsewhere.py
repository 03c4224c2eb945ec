"""Finds text of a prompt that is cached, but behind another beginning, where it is of no use: documents that came in
another order, or behind a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multiflora_platform.insight.kept_prompts import KeptPrompt

_PIECE = 32
"""Tokens that are looked for together: fewer are the same by chance."""
_MOST_PIECES = 64
_MOST_TOKENS = 1 << 16
"""Of earlier prompts, the newest first: what is looked through for each piece."""
_ITEM_BYTES = 4


def tokens_elsewhere(ours: KeptPrompt, kept: Sequence[KeptPrompt], start: int) -> int:
    """Of ours from token `start` on, in whole pieces: what earlier prompts of the same KV and salt have anywhere. kept:
    oldest first. Bounded: of long prompts only the first pieces are looked for."""
    theirs = list(_ids_of(kept, ours))
    last = min(len(ours.ids), start + _MOST_PIECES * _PIECE)
    pieces = (ours.ids[at : at + _PIECE].tobytes() for at in range(start, last - _PIECE + 1, _PIECE))
    return sum(_PIECE for piece in pieces if any(_has(ids, piece) for ids in theirs))


def _ids_of(kept: Sequence[KeptPrompt], ours: KeptPrompt) -> Iterator[bytes]:
    left = _MOST_TOKENS
    for one in reversed(kept):
        if one.facts.kv_digest != ours.facts.kv_digest or one.cache_salt != ours.cache_salt or one is ours:
            continue
        if left <= 0:
            return
        yield one.ids[:left].tobytes()
        left -= len(one.ids)


def _has(ids: bytes, piece: bytes) -> bool:
    """At the beginning of a token, not between."""
    place = ids.find(piece)
    while place % _ITEM_BYTES and place >= 0:
        place = ids.find(piece, place + 1)
    return place >= 0
