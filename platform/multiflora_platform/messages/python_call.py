"""Reads one tool call written as Python, name(key=value, ...), as it comes, and makes JSON of its arguments."""

from __future__ import annotations

import json
from collections.abc import Collection

from multiflora_platform.messages.argument_values import json_of
from multiflora_platform.messages.scanner import Scanner

_CLOSES = {"(": ")", "[": "]", "{": "}"}


class PythonCallScanner(Scanner):
    """An argument goes out when its value is complete: only then can it be written as JSON."""

    def __init__(self, names: Collection[str]) -> None:
        """names: of the functions on offer; what names another one is no call."""
        super().__init__()
        self._names = names
        # The name, key or value that is being read.
        self._word = ""
        # The keyword that the value being read belongs to; None between two arguments.
        self._key: str | None = None
        # Brackets of the value that are open: commas inside them end nothing.
        self._depth = 0
        # The quote that ends the string being read; empty outside of strings.
        self._quote = ""
        # The last character was a backslash inside a string.
        self._is_escaped = False
        # Arguments that went out.
        self._count = 0

    def _read(self, character: str) -> str:
        if self.name is None:
            return self._read_name(character)
        if self._key is None:
            return self._read_key(character)
        return self._read_value(character)

    def _read_name(self, character: str) -> str:
        if character == "(":
            name, self._word = self._word.strip(), ""
            self.name, self.has_failed = (name, False) if name in self._names else (None, True)
        else:
            self._word += character
            # At once, so that a text which only looks like a list of calls is not held back to its end.
            self.has_failed = not any(name.startswith(self._word.strip()) for name in self._names)
        return ""

    def _read_key(self, character: str) -> str:
        word = self._word.strip()
        if character == ")" and not word:
            return self._end_call()
        if character == "=" and word:
            self._key, self._word = word, ""
        elif character in "([{}])=,\"'":
            self.has_failed = not (character == "," and not word)  # a comma ends the argument before
        else:
            self._word += character
        return ""

    def _read_value(self, character: str) -> str:
        if not self._quote and not self._depth and character in ",)":
            out = self._end_value()
            return out + self._end_call() if character == ")" else out
        self._word += character
        if self._is_escaped:
            self._is_escaped = False
        elif self._quote:
            self._is_escaped = character == "\\"
            self._quote = "" if character == self._quote else self._quote
        elif character in "\"'":
            self._quote = character
        else:
            self._depth += (character in _CLOSES) - (character in _CLOSES.values())
        return ""

    def _end_value(self) -> str:
        assert self._key is not None, "a value has its key"
        opening = ", " if self._count else "{"
        out = f"{opening}{json.dumps(self._key, ensure_ascii=False)}: {json_of(self._word.strip(), frozenset())}"
        self._count += 1
        self._key, self._word = None, ""
        return out

    def _end_call(self) -> str:
        self.is_done = True
        return "}" if self._count else "{}"
