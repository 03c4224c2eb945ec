"""Reads one tool call written as JSON, {"name": ..., "arguments": {...}}, as it comes, in any order of its keys."""

from __future__ import annotations

import json

from multiflora_platform.messages.scanner import Scanner

_ARGUMENTS = ("arguments", "parameters")


class CallScanner(Scanner):
    """Fails on what is not JSON, and on JSON that is not a call.

    Arguments are passed on as they are written; those written as a JSON text inside the JSON are unwrapped at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        # Braces and brackets that are open; the call's own keys stand at depth 1.
        self._depth = 0
        self._in_string = False
        # The last character was a backslash inside a string.
        self._is_escaped = False
        # The string, or value, that is being read at depth 1.
        self._token = ""
        # The key at depth 1 that the value being read belongs to.
        self._key: str | None = None
        self._awaits_key = True
        # Arguments that came before the name; clients are told the name first.
        self._arguments = ""
        self._has_arguments = False
        # The JSON is the arguments alone; the name came from elsewhere.
        self.is_alone = False

    @classmethod
    def of_arguments(cls, name: str) -> CallScanner:
        """For forms that write the name apart: the JSON is the arguments alone."""
        scanner = cls()
        scanner.name, scanner.is_alone = name, True
        scanner._depth, scanner._awaits_key, scanner._key = 1, False, _ARGUMENTS[0]
        return scanner

    def _read(self, character: str) -> str:
        if self._in_string:
            return self._read_string(character)
        if self._depth == 0:
            self._depth, self.has_failed = 1, character != "{"
            return ""
        if character == '"':
            self._in_string = True
            return self._add(character)
        if character in "{[":
            self._depth += 1
            self.has_failed = self._depth == 2 and self._awaits_key  # a key is a string
            return self._add(character)
        if character in "}]":
            return self._close(character)
        if self._depth == 1 and character in ",:":
            return self._divide(character)
        if self._depth == 1 and self._awaits_key and not character.isspace():
            self.has_failed = True
            return ""
        return self._add(character)

    def _read_string(self, character: str) -> str:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
        return self._add(character)

    def _close(self, character: str) -> str:
        self._depth -= 1
        if self._depth == 0:
            self.is_done = True
            return self._end_value() + self._end_call()
        out = self._add(character)
        if self._depth == 1 and self.is_alone:
            self.is_done = True
        return out

    def _divide(self, character: str) -> str:
        if character == ":":
            self._key, self._token, self._awaits_key = self._text(), "", False
            return ""
        out = self._end_value()
        self._key, self._token, self._awaits_key = None, "", True
        return out

    def _add(self, character: str) -> str:
        """Keep the character where it belongs; returns what of the arguments may go out now."""
        if self._depth == 1 and character.isspace() and not self._in_string:
            return ""
        if self._key not in _ARGUMENTS:
            self._token += character
            return ""
        # Of arguments that are not a text only the first character is kept: it tells the two apart.
        self._token += character if self._is_text or not self._token else ""
        if self._is_text:
            return ""
        return self._release(character)

    @property
    def _is_text(self) -> bool:
        """Whether the arguments are JSON in a string, which must be unwrapped whole."""
        return self._token.startswith('"')

    def _release(self, text: str) -> str:
        """The text with what waited before it; both wait while the name is not known."""
        self._has_arguments = True
        if self.name is None:
            self._arguments += text
            return ""
        held, self._arguments = self._arguments, ""
        return held + text

    def _end_value(self) -> str:
        if self._key == "name":
            self.name = self._text()
            return self._release("") if self._has_arguments else ""
        if self._key in _ARGUMENTS and self._is_text:
            return self._release(self._text() or "{}")
        return ""

    def _end_call(self) -> str:
        if self.name is None:
            self.has_failed = True
            return ""
        return "" if self._has_arguments else self._release("{}")

    def _text(self) -> str | None:
        """The string that has been read; None if it is none, and then this is no call."""
        try:
            value = json.loads(self._token)
        except ValueError:
            value = None
        if not isinstance(value, str):
            self.has_failed = True
            return None
        return value
