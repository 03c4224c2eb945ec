"""Reads one tool call written as XML (Qwen3-Coder), as it comes, and makes JSON of its arguments.

<function=name>
<parameter=key>
value
</parameter>
</function>
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from multiflora_platform.messages.argument_values import escaped, json_of, kinds_of
from multiflora_platform.messages.markers import MarkerSearch
from multiflora_platform.messages.scanner import Scanner

_FUNCTION, _PARAMETER, _END, _END_VALUE = "<function=", "<parameter=", "</function>", "</parameter>"


class XmlCallScanner(Scanner):
    """Strings go out as they come; other values when they are complete, as their schema has them."""

    def __init__(self, schemas: Mapping[str, dict[str, Any]], is_open: bool) -> None:
        """schemas: of the arguments, by the function's name. is_open: `<function=` has been read already."""
        super().__init__()
        self._schemas = schemas
        # What has come of a tag, or of what may become one.
        self._tag = _FUNCTION if is_open else ""
        # The argument that is being read; None between two.
        self._value: _Value | None = None
        # Arguments that have begun.
        self._count = 0

    def _read(self, character: str) -> str:
        return self._read_tag(character) if self._value is None else self._read_value(self._value, character)

    def _read_tag(self, character: str) -> str:
        self._tag = (self._tag + character).lstrip()
        if self.name is None:
            return self._read_name(character)
        if self._tag.startswith(_PARAMETER):
            return self._begin_value(self._tag[len(_PARAMETER) : -1].strip()) if character == ">" else ""
        if self._tag == _END:
            self.is_done = True
            return "}" if self._count else "{}"
        if not (_PARAMETER.startswith(self._tag) or _END.startswith(self._tag)):
            self._tag = "<" if character == "<" else ""  # what stands between the tags means nothing
        return ""

    def _read_name(self, character: str) -> str:
        name = self._tag.removeprefix(_FUNCTION)
        if not self._tag.startswith(_FUNCTION):
            self.has_failed = not _FUNCTION.startswith(self._tag)
        elif character in "<\n" or name == ">":
            self.has_failed = len(name) > 0
        elif character == ">":
            self.name, self._tag = name[:-1].strip(), ""
        return ""

    def _begin_value(self, key: str) -> str:
        properties = self._schemas.get(self.name or "", {}).get("properties")
        self._value = _Value(properties.get(key) if isinstance(properties, dict) else None)
        self._tag = ""
        self._count += 1
        opening = "{" if self._count == 1 else ", "
        return f"{opening}{json.dumps(key, ensure_ascii=False)}: " + '"' * self._value.is_text

    def _read_value(self, value: _Value, character: str) -> str:
        out, has_ended = value.push(character)
        if has_ended:
            self._value = None
        return out


class _Value:
    """One argument's value. The line breaks at its ends belong to the tags."""

    def __init__(self, schema: Any) -> None:
        self._kinds = kinds_of(schema)
        # A string by its schema, or by none: it needs no parsing and can go out as it comes.
        self.is_text = self._kinds <= {"string"}
        self._search = MarkerSearch(_END_VALUE)
        # Nothing has come yet, so a line break is the tag's.
        self._begins = True
        # Of a text: a line break that may be the last. Of anything else: all of it.
        self._held = ""

    def push(self, character: str) -> tuple[str, bool]:
        """(JSON that this adds, whether the value has ended)."""
        before, after = self._search.push(character)
        text = before.removeprefix("\n") if self._begins else before
        self._begins = self._begins and not before
        self._held += text
        if after is not None:
            last = self._held.removesuffix("\n")
            return (escaped(last) + '"' if self.is_text else json_of(last, self._kinds)), True
        if not self.is_text:
            return "", False
        out, self._held = (self._held[:-1], "\n") if self._held.endswith("\n") else (self._held, "")
        return escaped(out), False
