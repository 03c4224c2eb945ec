"""Values that differ from request to request, told by how they are written: a time, an id made by chance, a count.

Knows two texts and nothing of prompts.
"""

from __future__ import annotations

import re

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_TIMES = (
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?(?:Z|[+-]\d{2}:?\d{2}))?)?",
    r"\d{4}/\d{2}/\d{2}|\d{1,2}/\d{1,2}/\d{4}|\d{1,2}\.\d{1,2}\.\d{4}",
    rf"\d{{1,2}} {_MONTH},? \d{{4}}|{_MONTH} \d{{1,2}},? \d{{4}}",
    r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp][Mm])?",
    r"(?<!\d)1[5-9]\d{8}(?:\d{3})?(?!\d)",
)
_NONCES = (
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    # By chance, eight hexadecimal digits or more have both letters and figures.
    r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{8,64}\b",
)
_KINDS = (("timestamp", _TIMES), ("nonce", _NONCES), ("counter", (r"(?<![\w.,-])\d{1,9}(?![\w]|[.,]\d)",)))
_MOST_COUNTED = 1000
_SAME_AFTER = 8
"""Characters behind the value that have to be equal, or all that there are: otherwise more than the value differs."""


def kind_of_value(before: str, theirs: str, ours: str) -> str | None:
    """timestamp, nonce or counter, where one stands where two texts part, in both, and what follows it is the same.

    before: what both have. None: nothing of the kind.
    """
    for kind, patterns in _KINDS:
        for pattern in patterns:
            one, other = (_at(pattern, before + text, len(before)) for text in (theirs, ours))
            if (
                one
                and other
                and one[0] != other[0]
                and _goes_on_alike(one.string[one.end() :], other.string[other.end() :])
            ):
                if kind == "counter" and not 0 < int(other[0]) - int(one[0]) <= _MOST_COUNTED:
                    continue
                return kind
    return None


def _at(pattern: str, text: str, place: int) -> re.Match[str] | None:
    """The match that holds the character at the place."""
    return next((found for found in re.finditer(pattern, text) if found.start() <= place < found.end()), None)


def _goes_on_alike(one: str, other: str) -> bool:
    length = min(len(one), len(other), _SAME_AFTER)
    return one[:length] == other[:length]
