"""What msgspec says of a value that does not fit, as a sentence that begins with the value's place."""

from __future__ import annotations

import re

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")


def told(message: str) -> tuple[str, str]:
    """message: msgspec's. The place, "" for the whole body, and the sentence."""
    place, reason = place_of(message)
    if missing := _MISSING.match(reason):
        place = f"{place}.{missing[1]}" if place else missing[1]
        return place, f"{place} is required."
    return place, sentence(place, reason)


def place_of(message: str) -> tuple[str, str]:
    """The place that msgspec names at the end of a complaint, "" for none, and the complaint without it."""
    place = _PLACE.search(message)
    if place is None:
        return "", message
    return place[1].partition("[...]")[0], message[: place.start()]  # msgspec does not tell which key of an object


def sentence(place: str, reason: str) -> str:
    """reason: msgspec's, without its place."""
    return f"{place or 'The body'}: {reason[:1].lower()}{reason[1:].replace('`', '')}."
