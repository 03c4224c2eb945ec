"""Formats of calls that do not write their arguments as one JSON object, for schemas that can be followed in parts."""

from __future__ import annotations

import json
import re
from typing import Any

from multiflora_platform.messages.argument_values import kinds_of
from multiflora_platform.structured.formats import (
    Format,
    const,
    either,
    json_schema,
    sequence,
    tag,
)

# Keywords that allow and forbid nothing.
_NOTES = {"title", "description", "default", "examples", "deprecated", "$schema", "$comment"}
_OBJECT = {"type", "properties", "required", "additionalProperties"} | _NOTES
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_XML_KEY = re.compile(r"[^<>\s]+\Z")
_END_VALUE = "</parameter>"
# Each keyword that may be the first one repeats those behind it: the grammar grows with the square.
_MAX_FREE_KEYWORDS = 8


def xml_call(name: str, schema: dict[str, Any]) -> Format | None:
    """<function=name> with its parameters in the schema's order; None where only JSON can follow the schema."""
    properties = _properties(schema)
    if properties is None or not all(map(_XML_KEY.match, properties)):
        return None
    written = {key: _xml_parameter(key, each) for key, each in properties.items()}
    parts = []
    for key, parameter in written.items():
        if parameter is None:
            return None
        parts.append(parameter if key in schema.get("required", ()) else either(parameter, const("")))
    return tag(f"<tool_call>\n<function={name}>\n", sequence(*parts, const("")), "</function>\n</tool_call>")


def python_call(name: str, schema: dict[str, Any]) -> Format | None:
    """name(key=value, ...), required ones first, their values as JSON; None as for `xml_call`."""
    properties = _properties(schema)
    if properties is None or not all(map(_IDENTIFIER.match, properties)):
        return None
    # In this order, required ones first: a grammar with every order would grow with the factorial.
    keywords = {key: tag(f"{key}=", json_schema(each), "") for key, each in properties.items()}
    required = [keywords.pop(key) for key in schema.get("required", ())]
    free = list(keywords.values())
    if not required and len(free) > _MAX_FREE_KEYWORDS:
        return None
    arguments = sequence(_joined(required), _optional(free)) if required else _any_first(free)
    return tag(f"{name}(", arguments, ")")


def _properties(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Of a schema that says nothing but what its properties are."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema.keys() - _OBJECT or schema.get("type") != "object" or not isinstance(properties, dict):
        return None
    if not isinstance(required, list) or len(set(map(str, required))) < len(required) or "$ref" in json.dumps(schema):
        return None
    return properties if all(key in properties for key in required) else None


def _xml_parameter(key: str, schema: Any) -> Format | None:
    begin, kinds = f"<parameter={key}>\n", kinds_of(schema)
    if kinds and "string" not in kinds:
        return tag(begin, json_schema(schema), f"\n{_END_VALUE}\n")
    if kinds != {"string"}:
        return None
    if not schema.keys() - _NOTES - {"type"}:
        return sequence(tag(begin, {"type": "any_text"}, _END_VALUE), const("\n"))
    values = schema.get("enum") or []
    if schema.keys() - _NOTES != {"type", "enum"} or any(_END_VALUE in value for value in values):
        return None
    return tag(begin, either(*map(const, values)), f"\n{_END_VALUE}\n")


def _joined(parts: list[Format]) -> Format:
    return sequence(*[piece for part in parts for piece in (const(", "), part)][1:])


def _optional(parts: list[Format]) -> Format:
    """Any of them, in their order, behind others."""
    return sequence(const(""), *(either(sequence(const(", "), part), const("")) for part in parts))


def _any_first(parts: list[Format]) -> Format:
    """Any of them, in their order, with nothing before."""
    firsts = [sequence(part, _optional(parts[at + 1 :])) for at, part in enumerate(parts)]
    return either(*firsts, const(""))
