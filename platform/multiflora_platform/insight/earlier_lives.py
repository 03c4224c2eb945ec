"""Which prompts earlier lives of an engine, or other engines, had seen: a later miss can say so.

Keeps checksums of prompts' beginnings, neither text nor token ids. Does not know what the engine holds now.
"""

from __future__ import annotations

import zlib
from array import array
from collections import OrderedDict
from itertools import takewhile
from typing import NamedTuple

from multiflora_platform.engine import Life

_MOST_BLOCKS = 1 << 16


class SeenBefore(NamedTuple):
    """Lengths in tokens of a prompt's beginnings that were computed before: by the replica that has it, in this life;
    by it in any; by any replica in any."""

    now: int = 0
    ever: int = 0
    anywhere: int = 0

    def reason(self, cached_tokens: int) -> str | None:
        """Why the replica has not cached what follows, if it was seen by earlier lives or elsewhere alone."""
        if self.now <= cached_tokens < self.ever:
            return "engine_restarted"
        return "other_replica" if max(self.now, self.ever) <= cached_tokens < self.anywhere else None


class EarlierLives:
    """The last `most_blocks` beginnings, one for each whole block of a prompt, and of each replica that saw them its
    last life that did."""

    def __init__(self, most_blocks: int = _MOST_BLOCKS) -> None:
        self._most_blocks = most_blocks
        self._lives: OrderedDict[int, tuple[Life, ...]] = OrderedDict()

    def note(self, kv_digest: str | None, salt: str, ids: array[int], block_size: int, life: Life) -> SeenBefore:
        """The prompt, of these 32-bit ids, is computed in this life. Returns what was known of it before."""
        checksums, lives = _checksums(kv_digest, salt, ids, block_size), self._lives
        last = [lives.pop(checksum, ()) for checksum in checksums]
        # At the end: what was asked for last is forgotten last.
        alone = (life,)
        for checksum, seen in zip(checksums, last, strict=True):
            others = tuple(one for one in seen if one.replica != life.replica)
            lives[checksum] = (*others, life) if others else alone
        while len(lives) > self._most_blocks:
            lives.popitem(last=False)
        now = sum(1 for _ in takewhile(lambda seen: life in seen, last))
        ever = sum(1 for _ in takewhile(lambda seen: any(one.replica == life.replica for one in seen), last))
        anywhere = sum(1 for _ in takewhile(bool, last))
        return SeenBefore(now * block_size, ever * block_size, anywhere * block_size)


def _checksums(kv_digest: str | None, salt: str, ids: array[int], block_size: int) -> list[int]:
    """One for each beginning of whole blocks, of its content and of all that decides who may share it. They only
    choose a word for people: two that are equal by chance do no harm."""
    checksum = zlib.crc32(f"{kv_digest}\0{salt}".encode())
    tokens, step = memoryview(ids).cast("B"), block_size * ids.itemsize
    return [
        checksum := zlib.crc32(tokens[start : start + step], checksum)
        for start in range(0, len(tokens) - step + 1, step)
    ]
