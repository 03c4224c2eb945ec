"""Small integers out of the 32-bit words and bytes that they are packed in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The values of a four-bit float: a sign, two bits of exponent and one of mantissa."""
NIBBLES = torch.arange(16, dtype=torch.uint8)
"""The table for `look_up_nibbles` of what is wanted as it is."""


def words_for(count: int, bits: int) -> int:
    """How many 32-bit words `count` values of `bits` bits fill."""
    return -(-count * bits // 32)


def unpack_words(words: torch.Tensor, bits: int, count: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """words: int32 [W, n]. Returns uint8 [count, n], W = words_for(count, bits).

    Semantics: the words of a column are one stream of bits, the lowest first, and value i is the bits from i * bits on,
    which may cross words. order: where in each word its values stand, for formats that do not store them in a row.
    """
    period, stride = 32 // math.gcd(32, bits), bits // math.gcd(32, bits)
    rounds = -(-count // period)
    missing = rounds * stride - words.shape[0]
    if missing > 0:
        words = torch.cat([words, words.new_zeros(missing, words.shape[1])])
    values = torch.empty(rounds * period, words.shape[1], dtype=torch.uint8)
    for place in range(period):
        word, shift = divmod((place if order is None else order[place]) * bits, 32)
        # An arithmetic shift copies the sign into the bits above, which the masks cut off.
        value = words[word::stride] >> shift
        kept = 32 - shift
        if kept < bits:
            value = (value & ((1 << kept) - 1)) | (words[word + 1 :: stride] << kept)
        values[place::period] = value & ((1 << bits) - 1)
    return values[:count]


def look_up_nibbles(packed: torch.Tensor, table: torch.Tensor, *, low_first: bool) -> torch.Tensor:
    """packed: uint8 [..., n]; table: float32 or uint8 [16]. Returns the value of each half of a byte, [..., 2 n] of
    the table's type."""
    byte = torch.arange(256)
    halves = [table[byte & 15], table[byte >> 4]]
    # A byte's pair of values is looked up at once, as one number of twice the size.
    wide = torch.int64 if table.dtype == torch.float32 else torch.int16
    pairs = torch.stack(halves if low_first else halves[::-1], dim=1).view(wide).flatten()
    found = torch.index_select(pairs, 0, packed.flatten().int())
    return found.view(table.dtype).view(*packed.shape[:-1], -1)
