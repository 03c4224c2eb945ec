"""Where two prompts part, and where they agree again: what a cache would find if they differed behind that.

Knows token ids alone. What is looked at on the way is bounded, but for the comparison itself.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

# Tokens of the earlier prompt behind the difference, from which on both may be the same again.
_STEPS = (1, 2, 4, 8, 16, 32, 64)
_ANCHOR = 16
# By how much a value may be longer in one of the two.
_SLACK = 64
_ITEM_BYTES = 4
LEAST_TOKENS = 32
"""Behind a difference, that are the same: fewer are worth no finding."""


@dataclass(frozen=True, slots=True)
class Parting:
    """at: the first token that differs. theirs, ours: where both go on alike, for `length` tokens."""

    at: int
    theirs: int
    ours: int
    length: int


def num_shared(one: array[int], other: array[int], at: int = 0, other_at: int = 0) -> int:
    """Tokens that both have from there on."""
    length = min(len(one) - at, len(other) - other_at)
    if length <= 0:
        return 0
    ids = np.frombuffer(one, np.uint32)[at : at + length]
    differs = ids != np.frombuffer(other, np.uint32)[other_at : other_at + length]
    first = int(differs.argmax())
    return first if differs[first] else length


def value_parting(ours: array[int], theirs: array[int], at: int) -> Parting | None:
    """Of prompts that differ by a short value: soon they go on alike, a few tokens apart."""
    for step in _STEPS:
        anchor = theirs[at + step : at + step + _ANCHOR].tobytes()
        window = ours[at : at + step + _ANCHOR + _SLACK].tobytes()
        place = window.find(anchor)
        while place % _ITEM_BYTES and place >= 0:
            place = window.find(anchor, place + 1)
        if len(anchor) < _ANCHOR * _ITEM_BYTES or place < 0:
            continue
        theirs_at, ours_at = at + step, at + place // _ITEM_BYTES
        while min(theirs_at, ours_at) > at and theirs[theirs_at - 1] == ours[ours_at - 1]:
            theirs_at, ours_at = theirs_at - 1, ours_at - 1
        length = num_shared(ours, theirs, ours_at, theirs_at)
        if length >= LEAST_TOKENS:
            return Parting(at, theirs_at, ours_at, length)
    return None


def order_parting(ours: array[int], theirs: array[int], at: int) -> Parting | None:
    """Of prompts in which the same things stand in another order: what follows has the same places in both."""
    length = min(len(ours), len(theirs)) - at
    one = np.frombuffer(ours, np.uint32)[at : at + length]
    differs = np.flatnonzero(one != np.frombuffer(theirs, np.uint32)[at : at + length])
    gaps = np.diff(differs, append=length)
    longest = int(gaps.argmax())
    first, alike = int(differs[longest]) + 1, int(gaps[longest]) - 1
    return Parting(at, at + first, at + first, alike) if alike >= LEAST_TOKENS else None
