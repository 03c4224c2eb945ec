"""Which prompts earlier lives of the engine had seen: their KV ended with them, and a later miss can say so.

Keeps checksums of prompts' beginnings, neither text nor token ids. Does not know what the engine holds now.
"""

from __future__ import annotations

import zlib
from array import array
from collections import OrderedDict
from itertools import takewhile

_MOST_BLOCKS = 1 << 16


class EarlierLives:
    """The last `most_blocks` beginnings, one for each whole block of a prompt, and the engine's life that saw them."""

    def __init__(self, most_blocks: int = _MOST_BLOCKS) -> None:
        self._most_blocks = most_blocks
        self._lives: OrderedDict[int, int] = OrderedDict()

    def note(self, kv_digest: str | None, salt: str, ids: array[int], block_size: int, life: int) -> range:
        """The prompt, of these 32-bit ids, is computed in this life (counted from 0). Returns the lengths in tokens up
        to which a cached beginning may end so that what follows was seen by earlier lives alone."""
        checksums, lives = _checksums(kv_digest, salt, ids, block_size), self._lives
        last = [lives.pop(checksum, None) for checksum in checksums]
        # At the end: what was asked for last is forgotten last.
        for checksum in checksums:
            lives[checksum] = life
        while len(lives) > self._most_blocks:
            lives.popitem(last=False)
        seen_now = sum(1 for _ in takewhile(lambda seen: seen == life, last))
        seen_earlier = sum(1 for _ in takewhile(lambda seen: seen is not None, last))
        return range(seen_now * block_size, seen_earlier * block_size)


def _checksums(kv_digest: str | None, salt: str, ids: array[int], block_size: int) -> list[int]:
    """One for each beginning of whole blocks, of its content and of all that decides who may share it. They only
    choose a word for people: two that are equal by chance do no harm."""
    checksum = zlib.crc32(f"{kv_digest}\0{salt}".encode())
    tokens, step = memoryview(ids).cast("B"), block_size * ids.itemsize
    return [
        checksum := zlib.crc32(tokens[start : start + step], checksum)
        for start in range(0, len(tokens) - step + 1, step)
    ]
