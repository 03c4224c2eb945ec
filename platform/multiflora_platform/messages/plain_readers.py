"""Readers of answers that are calls from their first character on, or else text: Llama's JSON, and Python's calls."""

from __future__ import annotations

from collections.abc import Callable, Collection

from multiflora_platform.messages.call_scanner import CallScanner
from multiflora_platform.messages.marked_reader import Calls
from multiflora_platform.messages.pieces import Content, Piece
from multiflora_platform.messages.python_call import PythonCallScanner


class PlainJsonReader:
    """{"name": ..., "parameters": ...} and nothing else, several with semicolons between them (Llama 3).

    Only names on offer make it a call: an answer may be JSON and have a name, too.
    """

    _tag = "<|python_tag|>"

    def __init__(self, calls: Calls, names: Collection[str]) -> None:
        self._calls = calls
        self._names = names
        # Of the call that is being read.
        self._scanner: CallScanner | None = None
        # The call's first pieces, until its name is known to be on offer.
        self._held: list[Piece] = []
        # What has come before a brace: space, or the beginning of the tag.
        self._start = ""
        # There is no call, or none any more: all that comes is text.
        self._is_text = False

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text and not self._is_text:
            if self._scanner is None:
                text = self._find_call(text)
            else:
                more, text = self._scan(text)
                pieces += more
        return pieces + ([Content(text)] if text else [])

    def flush(self) -> list[Piece]:
        raw = self._scanner.raw if self._scanner is not None and not self._is_known else self._start
        return [Content(raw)] if raw else []

    def _find_call(self, text: str) -> str:
        """The text from a call's brace on; all of it, once it is clear that there is none."""
        self._start += text
        begun = self._start.lstrip(" \n\t;").removeprefix(self._tag).lstrip()
        if not begun or self._tag.startswith(begun):
            return ""
        if begun.startswith("{"):
            self._scanner = CallScanner()
        else:
            begun, self._is_text = self._start, True
        self._start = ""
        return begun

    def _scan(self, text: str) -> tuple[list[Piece], str]:
        assert self._scanner is not None
        scanner = self._scanner
        more, rest = self._calls.push(scanner, text)
        self._held += more
        if not self._is_known:
            if scanner.name is None and not (scanner.is_done or scanner.has_failed):
                return [], ""
            # JSON, but no call of ours: all of it is read again, as text.
            self._held, self._scanner, self._is_text = [], None, True
            return [], scanner.raw + rest
        pieces, self._held = self._held, []
        if scanner.is_done or scanner.has_failed:
            self._scanner = None
        return pieces, rest

    @property
    def _is_known(self) -> bool:
        return self._scanner is not None and self._scanner.name in self._names


class PythonicReader:
    """[name(key=value), ...] (Llama 3.2 and 4), perhaps between their markers. Llama's JSON is understood, too.

    What has not begun a call when it turns out to be none goes out as text.
    """

    _before = ("<|python_start|>", "<|python_tag|>")
    _after = "<|python_end|>"

    def __init__(self, calls: Calls, names: Collection[str]) -> None:
        self._calls = calls
        self._names = names
        # The state: start -> list <-> call -> end -> text, or start -> json, or start -> text.
        self._read: Callable[[str], tuple[list[Piece], str]] = self._read_start
        # Text that may still belong to a call or to a marker.
        self._held = ""
        # A call has gone out, so what was held before it is no text.
        self._has_calls = False
        # Reads all of the answer, once that has begun with a brace.
        self._json: PlainJsonReader | None = None
        # Of the call that is being read.
        self._scanner: PythonCallScanner | None = None

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text:
            more, text = self._read(text)
            pieces += more
        return pieces

    def flush(self) -> list[Piece]:
        if self._json is not None:
            return self._json.flush()
        held = "" if self._has_calls else self._held + (self._scanner.raw if self._scanner else "")
        return [Content(held)] if held else []

    def _read_start(self, text: str) -> tuple[list[Piece], str]:
        self._held += text
        begun = self._held.lstrip()
        for marker in self._before:
            begun = begun.removeprefix(marker).lstrip()
        if not begun or any(marker.startswith(begun) for marker in self._before):
            return [], ""
        if begun[0] == "[":
            self._held, self._read = "[", self._read_list
            return [], begun[1:]
        if begun[0] == "{":
            self._json, self._read = PlainJsonReader(self._calls, self._names), self._read_json
            return [], begun
        held, self._held, self._read = self._held, "", self._read_text
        return [], held

    def _read_list(self, text: str) -> tuple[list[Piece], str]:
        """Between two calls."""
        character, rest = text[0], text[1:]
        if character.isspace() or character == ",":
            self._held += character
            return [], rest
        if character == "]" and self._has_calls:
            self._held, self._read = "", self._read_end
            return [], rest
        self._scanner, self._read = PythonCallScanner(self._names), self._read_call
        return [], text

    def _read_call(self, text: str) -> tuple[list[Piece], str]:
        scanner = self._scanner
        assert scanner is not None, "the list has begun a call"
        pieces, rest = self._calls.push(scanner, text)
        self._has_calls = self._has_calls or scanner.name is not None
        if scanner.has_failed:
            raw = self._held + scanner.raw if scanner.name is None else ""
            self._scanner, self._held, self._read = None, "", self._read_text
            return pieces, raw + rest
        if scanner.is_done:
            self._scanner, self._held, self._read = None, "", self._read_list
        return pieces, rest

    def _read_end(self, text: str) -> tuple[list[Piece], str]:
        self._held += text
        begun = self._held.lstrip()
        if self._after.startswith(begun):
            return [], ""
        self._held, self._read = "", self._read_text
        return [], begun.removeprefix(self._after).lstrip()

    def _read_json(self, text: str) -> tuple[list[Piece], str]:
        assert self._json is not None, "the answer began with a brace"
        return self._json.push(text), ""

    def _read_text(self, text: str) -> tuple[list[Piece], str]:
        return [Content(text)], ""
