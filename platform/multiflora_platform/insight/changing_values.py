"""Values that differ from request to request, told by how they are written: a time, an id made by chance, a count.

Knows two texts and nothing of prompts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp][Mm])?"
_AND_CLOCK = rf"(?:,?(?: at)? {_CLOCK})?"
_WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? "
_TIMES = (
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?(?:Z|[+-]\d{2}:?\d{2}))?)?",
    r"(?<!\d)\d{8}T\d{6}Z?",
    rf"(?:\d{{4}}/\d{{2}}/\d{{2}}|\d{{1,2}}/\d{{1,2}}/\d{{4}}|\d{{1,2}}\.\d{{1,2}}\.\d{{4}}){_AND_CLOCK}",
    rf"(?:{_WEEKDAY})?(?:\d{{1,2}}\.? {_MONTH}|{_MONTH} \d{{1,2}}),? \d{{4}}{_AND_CLOCK}",
    _CLOCK,
    r"(?<!\d)1[5-9]\d{8}(?:\d{3})?(?!\d)",
)
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
# Of equal length in both texts: by chance, letters and figures are mixed.
_NONCES = (
    _UUID,
    r"(?<![A-Za-z0-9])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{8,64}(?![A-Za-z0-9])",
    r"(?<![A-Za-z0-9])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{12,64}(?![A-Za-z0-9])",
)
_KINDS = (("timestamp", _TIMES), ("nonce", _NONCES), ("counter", (r"(?<![\w.,-])\d{1,9}(?![\w]|[.,]\d)",)))
_ANY = re.compile("|".join(pattern for _, patterns in _KINDS for pattern in patterns))
_MOST_COUNTED = 1000
_SAME_AFTER = 16
"""Characters behind the value that have to be equal, or all that there are: otherwise more than the value differs."""


class Value(NamedTuple):
    """kind: timestamp, uuid, nonce or counter. start: its first character, in what both have and what follows."""

    kind: str
    start: int


def kind_of_value(before: str, theirs: str, ours: str) -> str | None:
    """timestamp, nonce or counter, where one stands where two texts part, in both, and what follows it is the same.

    before: what both have. None: nothing of the kind.
    """
    value = find_value(before, theirs, ours)
    return "nonce" if value and value.kind == "uuid" else value and value.kind


def find_value(before: str, theirs: str, ours: str, same_after: int = _SAME_AFTER) -> Value | None:
    """The same with a place, and a nonce that is a UUID as such. same_after: characters behind it that are compared."""
    for kind, patterns in _KINDS:
        for pattern in patterns:
            one, other = (_at(pattern, before + text, len(before)) for text in (theirs, ours))
            if one and other and _is_alone(one, other, same_after) and _is_of(kind, one[0], other[0]):
                return Value("uuid" if pattern == _UUID else kind, other.start())
    return None


def without_values(text: str) -> str:
    """With a mark in each value's place: equal where two texts differ in such values alone."""
    return _ANY.sub("\0", text)


def _is_of(kind: str, theirs: str, ours: str) -> bool:
    if kind == "counter":
        return 0 < int(ours) - int(theirs) <= _MOST_COUNTED
    return kind == "timestamp" or len(theirs) == len(ours)


def _is_alone(one: re.Match[str], other: re.Match[str], same_after: int) -> bool:
    """The values differ, and what follows them does not."""
    rest, other_rest = one.string[one.end() :], other.string[other.end() :]
    length = min(len(rest), len(other_rest), same_after)
    return one[0] != other[0] and rest[:length] == other_rest[:length]


def _at(pattern: str, text: str, place: int) -> re.Match[str] | None:
    """The match that holds the character at the place."""
    return next((found for found in re.finditer(pattern, text) if found.start() <= place < found.end()), None)
