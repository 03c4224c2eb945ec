"""JSON of clients as msgspec's types: what their languages write is taken, what does not fit is told with its place."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

Body = TypeVar("Body", bound=msgspec.Struct)
_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")


def decode(content: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Some clients' languages have one kind of number: they write integers as 8.0. Where the first reading meets a
    float in an integer's place, all floats without a fraction are read as integers (a field of floats takes
    these, too). Raises as msgspec."""
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        body: Body = msgspec.convert(_integral(msgspec.json.decode(content)), decoder.type, str_keys=True)
        return body


def _integral(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return {key: _integral(item) for key, item in value.items()} if isinstance(value, dict) else value


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
