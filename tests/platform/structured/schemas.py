"""Random JSON schemas: everything that documents say of structured output, nested, each with an end in sight."""

from __future__ import annotations

from random import Random
from typing import Any

import jsonschema

Schema = dict[str, Any]
WORDS = ("name", "id", "é", "a b", 'q"q', "count", "x-y", "日本", "items", "type")


def random_schema(rng: Random) -> Schema:
    """An object at the top, as tools and strict response formats have it."""
    schema = _object(rng, 3)
    if rng.random() < 0.3:
        schema["$defs"] = {"shared": _leaf(rng)}
        schema["properties"]["ref"] = {"$ref": "#/$defs/shared"}
        schema["required"].append("ref")
    return schema


def check(text: str, schema: Schema, value: Any) -> None:
    """Raises ValidationError. text: only for the message."""
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    errors = [error.message for error in validator.iter_errors(value)]
    assert not errors, f"{text} does not follow {schema}: {errors}"


def _any(rng: Random, depth: int) -> Schema:
    if depth and rng.random() < 0.5:
        return rng.choice((_object, _array, _any_of))(rng, depth - 1)
    return _leaf(rng)


def _object(rng: Random, depth: int) -> Schema:
    names = rng.sample(WORDS, rng.randint(1, 4))
    properties = {name: _any(rng, depth) for name in names}
    required = [name for name in names if rng.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(rng: Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _any(rng, depth), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def _any_of(rng: Random, depth: int) -> Schema:
    return {"anyOf": [_any(rng, depth) for _ in range(rng.randint(1, 3))]}


def _leaf(rng: Random) -> Schema:
    low = rng.randint(-50, 50)
    leaves: list[Schema] = [
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["string", "null"], "maxLength": 5},
        {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 1000)},
        {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + 7},
        {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500},
        {"type": "string", "minLength": rng.randint(0, 3), "maxLength": rng.randint(3, 12)},
        {"type": "string", "pattern": "^[a-f]{2,4}-[0-9]+x$", "maxLength": 12},
        {"type": "string", "format": rng.choice(("date", "uuid", "ipv4", "date-time"))},
        {"type": "string", "maxLength": 60},
        {"enum": rng.sample(["a", "b", 1, 2.5, None, True, "ü"], rng.randint(1, 4))},
        {"const": rng.choice([0, "only", None, False, {"k": [1]}])},
    ]
    return rng.choice(leaves)
