"""How far two texts, or two lists of token ids, are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def num_alike(one: Sequence[Item], other: Sequence[Item]) -> int:
    """Characters or ids that both begin with. Both of one type: a list and a tuple have nothing in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
