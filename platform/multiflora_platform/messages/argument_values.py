"""Values of arguments that models write bare, as text or as Python, brought into JSON by what their schema allows."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from typing import Any

Kinds = frozenset[str]
# The order matters: Python's bool is an int.
_KINDS = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (type(None), "null"),
    (dict, "object"),
)


def kinds_of(schema: Any) -> Kinds:
    """The JSON types that a schema allows, as far as it says so; empty: it does not say."""
    if not isinstance(schema, dict):
        return frozenset()
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
        return frozenset(map(_kind, values))
    kind = schema.get("type")
    if isinstance(kind, str | list):
        return frozenset([kind] if isinstance(kind, str) else map(str, kind))
    branches = schema.get("anyOf") or schema.get("oneOf")
    return _union(map(kinds_of, branches)) if isinstance(branches, list) else frozenset()


def json_of(text: str, kinds: Kinds) -> str:
    """The JSON of a value written as JSON, as a Python literal, or as plain text. kinds: those allowed; empty: any."""
    kind, written = _read(text.strip())
    fits = not kinds or kind in kinds or (kind == "integer" and "number" in kinds)
    if written is None or (not fits and "string" in kinds):
        return json.dumps(text, ensure_ascii=False)
    return written


def escaped(text: str) -> str:
    """As it stands within a JSON string; piece by piece, too."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _read(text: str) -> tuple[str, str | None]:
    """(type, JSON); JSON None for what is not a literal."""
    try:
        return _kind(json.loads(text, parse_constant=_refuse)), text
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        written.encode()  # a lone surrogate, which Python's literals may hold, is no text
        return _kind(json.loads(written)), written
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return "string", None


def _refuse(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _kind(value: Any) -> str:
    return next((kind for type_, kind in _KINDS if isinstance(value, type_)), "array")


def _union(branches: Iterable[Kinds]) -> Kinds:
    """Empty, when one of them does not say."""
    found = list(branches)
    return frozenset().union(*found) if all(found) else frozenset()
