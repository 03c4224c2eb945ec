"""Formats: JSON descriptions of what a text must look like, in the words of structural tags (XGrammar, vLLM).

    {"type": "json_schema", "json_schema": {...}}        {"type": "regex", "pattern": "..."}
    {"type": "const_string", "value": "..."}             {"type": "grammar", "grammar": "..."}   Lark, or GBNF
    {"type": "any_text"}                                 {"type": "sequence" | "or", "elements": [...]}
    {"type": "tag", "begin": "...", "content": {...}, "end": "..."}
    {"type": "tags_with_separator", "tags": [...], "separator": "...", "at_least_one": false, "stop_after_first": false}
    {"type": "triggered_tags", "triggers": ["..."], "tags": [...], "at_least_one": false, "stop_after_first": false}

Everything that shapes an answer is one of them: a schema, a choice, tool calls, reasoning before an answer. Knows
neither grammars (lark.py turns formats into them) nor requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from multiflora_engine.protocol.sampling_params import StructuredOutputsParams

Format = dict[str, Any]
# Keywords whose values are data, those whose values are schemas by name, and those that are counts.
_DATA = ("const", "enum", "default", "examples")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COUNTS = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


class FormatError(ValueError):
    """A format that cannot be understood."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        """parameter: of the request, the one that is to blame, if one is."""
        super().__init__(message)
        self.parameter = parameter


class Whitespace(msgspec.Struct, frozen=True, omit_defaults=True):
    """What may stand between the parts of JSON; by default the whitespace of lark.py."""

    # A regular expression.
    pattern: str | None = None
    # Compact JSON, unless a pattern is given.
    none: bool = False


class Structure(msgspec.Struct, frozen=True):
    """A format with the whitespace of all JSON in it."""

    format: Format
    whitespace: Whitespace = Whitespace()


def structure_of(params: StructuredOutputsParams) -> Structure:
    """Raises FormatError unless exactly one kind is given."""
    given = [kind for kind in _KINDS if getattr(params, kind) not in (None, False)]
    if len(given) != 1:
        raise FormatError(f"give exactly one of {', '.join(_KINDS)}; {' and '.join(given) or 'none of them'} is given")
    return Structure(_FORMATS[given[0]](params), Whitespace(params.whitespace_pattern, params.disable_any_whitespace))


def json_schema(schema: Any) -> Format:
    return {"type": "json_schema", "json_schema": schema}


def const(text: str) -> Format:
    return {"type": "const_string", "value": text}


def sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def either(*elements: Format) -> Format:
    return {"type": "or", "elements": list(elements)}


def tag(begin: str, content: Format, end: str) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def tags_with_separator(tags: Sequence[Format], separator: str, only_one: bool) -> Format:
    """One tag or, unless only_one, several."""
    kind = {"type": "tags_with_separator", "separator": separator}
    return {**kind, "tags": list(tags), "at_least_one": True, "stop_after_first": only_one}


def triggered_tags(trigger: str, tags: Sequence[Format], only_one: bool) -> Format:
    """Free text, in which the trigger begins one of the tags."""
    return {"type": "triggered_tags", "triggers": [trigger], "tags": list(tags), "stop_after_first": only_one}


def close_objects(schema: Any) -> Any:
    """The schema with `additionalProperties: false` where its objects leave that open.

    Not below allOf, whose parts speak of the same object: closed, each would exclude the others' properties.
    """
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _close_below(key, value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not {"allOf", "patternProperties", "$ref"} & schema.keys():
        closed.setdefault("additionalProperties", False)
    return closed


def _close_below(keyword: str, value: Any) -> Any:
    return value if keyword == "allOf" else _below(keyword, value, close_objects)


def integral_counts(schema: Any) -> Any:
    """The schema with maxLength: 3.0 and its like as 3: clients write it so whose language has one kind of number."""
    if isinstance(schema, list):
        return [integral_counts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _integral_below(key, value) for key, value in schema.items()}


def _integral_below(keyword: str, value: Any) -> Any:
    if keyword in _COUNTS:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    return _below(keyword, value, integral_counts)


def _below(keyword: str, value: Any, change: Callable[[Any], Any]) -> Any:
    """The keyword's value with the schemas in it changed."""
    if keyword in _DATA:
        return value
    if keyword in _NAMED and isinstance(value, dict):
        return {name: change(schema) for name, schema in value.items()}
    return change(value)


def _json(params: StructuredOutputsParams) -> Format:
    schema: Any = params.json
    if isinstance(schema, str):
        schema = _parsed(schema, "json")
    return json_schema(close_objects(schema) if params.disable_additional_properties else schema)


def _regex(params: StructuredOutputsParams) -> Format:
    return {"type": "regex", "pattern": params.regex}


def _choice(params: StructuredOutputsParams) -> Format:
    if not params.choice:
        raise FormatError("choice must be a list of at least one string", "choice")
    return either(*map(const, params.choice))


def _grammar(params: StructuredOutputsParams) -> Format:
    return {"type": "grammar", "grammar": params.grammar}


def _json_object(params: StructuredOutputsParams) -> Format:
    return json_schema({"type": "object"})


def _structural_tag(params: StructuredOutputsParams) -> Format:
    value: Any = params.structural_tag
    if isinstance(value, str):
        value = _parsed(value, "structural_tag")
    return structural_tag(value)


def structural_tag(value: Any) -> Format:
    """From vLLM's two spellings: {"format": {...}}, or {"structures": [{begin, schema, end}], "triggers": [...]}."""
    if isinstance(value, dict) and isinstance(value.get("format"), dict):
        return dict(value["format"])
    if not isinstance(value, dict) or not isinstance(value.get("structures"), list):
        raise FormatError("structural_tag must have a format, or structures and triggers", "structural_tag")
    structures = value["structures"]
    if not all(isinstance(each, dict) and isinstance(each.get("begin"), str) for each in structures):
        raise FormatError("structural_tag.structures must be objects with begin, schema and end", "structural_tag")
    tags = [tag(each["begin"], json_schema(each.get("schema", {})), each.get("end", "")) for each in structures]
    return {"type": "triggered_tags", "triggers": value.get("triggers"), "tags": tags}


_FORMATS = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json_object": _json_object,
    "structural_tag": _structural_tag,
}


def _parsed(text: str, parameter: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FormatError(f"{parameter} is not valid JSON: {error}", parameter) from None
