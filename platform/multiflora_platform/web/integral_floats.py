"""JSON of clients whose language has one kind of number: they write integers as 8.0."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

Body = TypeVar("Body", bound=msgspec.Struct)


def decode(content: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Where the first reading meets a float in an integer's place, all floats without a fraction are read as integers
    (a field of floats takes these, too). Raises as msgspec."""
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
