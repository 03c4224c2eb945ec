"""Readers that find tool calls in content as it comes, one for each form of writing them (tool_formats.py).

What looks like a call and is none goes out as content; a call that has gone out is not taken back.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from multiflora_platform.messages.call_scanner import CallScanner
from multiflora_platform.messages.markers import MarkerSearch
from multiflora_platform.messages.pieces import CallArguments, CallBegin, Content, Piece
from multiflora_platform.messages.tool_formats import ToolFormat


class ToolReader(Protocol):
    def push(self, text: str) -> list[Piece]: ...

    def flush(self) -> list[Piece]:
        """At the end: what was held back."""


def make_reader(form: ToolFormat, names: Collection[str], only_one: bool) -> ToolReader:
    """names: of the tools on offer. only_one: calls after the first are left out."""
    calls = Calls(only_one)
    if form.kind == "llama3_json":
        return _PlainJsonReader(calls, names)
    return _MistralReader(calls) if form.kind == "mistral" else _HermesReader(calls)


class Calls:
    """Turns what scanners find into pieces, and counts the calls."""

    def __init__(self, only_one: bool) -> None:
        self._only_one = only_one
        self._count = 0
        self._has_begun = False

    def push(self, scanner: CallScanner, text: str) -> tuple[list[Piece], str]:
        """(pieces, the text behind the call)."""
        arguments, rest = scanner.push(text)
        pieces: list[Piece] = []
        if scanner.name is not None and not self._has_begun:
            self._has_begun = True
            pieces.append(CallBegin(self._count, scanner.name))
        if arguments and self._has_begun:
            pieces.append(CallArguments(self._count, arguments))
        if self._only_one and self._count:
            pieces = []
        if scanner.is_done or scanner.has_failed:
            self._count += self._has_begun
            self._has_begun = False
        return pieces, rest


class _Text:
    """Content around calls. Space before a call, after one and between two belongs to neither; it waits for text."""

    def __init__(self) -> None:
        self._space = ""
        self._after_call = False

    def push(self, text: str) -> list[Piece]:
        text = self._space + text
        if self._after_call:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        self._after_call = self._after_call and not kept
        return [Content(kept)] if kept else []

    def call(self) -> None:
        self._space, self._after_call = "", True

    def flush(self) -> list[Piece]:
        space, self._space = self._space, ""
        return [Content(space)] if space and not self._after_call else []


class _MarkedReader:
    """Text up to a marker, then calls."""

    marker = ""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._text = _Text()
        self._search = MarkerSearch(self.marker)
        self._scanner: CallScanner | None = None
        self._is_text = True

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text:
            if self._is_text:
                before, after = self._search.push(text)
                pieces += self._text.push(before) if before else []
                text = after or ""
                if after is not None:
                    self._is_text = False
                    self._begin()
            else:
                more, text = self._read(text)
                pieces += more
        return pieces

    def flush(self) -> list[Piece]:
        held = self._search.flush()
        if self._scanner is not None and self._scanner.name is None:
            held = self.marker + self._scanner.raw
        return (self._text.push(held) if held else []) + self._text.flush()

    def _begin(self) -> None:
        """After a marker."""

    def _read(self, text: str) -> tuple[list[Piece], str]:
        """(pieces, the text that is not read yet); everything is read, or the reader's state changes."""
        raise NotImplementedError

    def _scan(self, text: str) -> tuple[list[Piece], str]:
        """Of a call that has begun."""
        assert self._scanner is not None
        pieces, rest = self._calls.push(self._scanner, text)
        if self._scanner.has_failed and self._scanner.name is None:
            pieces, self._is_text = self._text.push(self.marker + self._scanner.raw), True
        else:
            self._text.call()
        if self._scanner.is_done or self._scanner.has_failed:
            self._scanner = None
        return pieces, rest


class _HermesReader(_MarkedReader):
    """<tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>, as often as there are calls."""

    marker = "<tool_call>"
    _end = "</tool_call>"

    def _begin(self) -> None:
        self._scanner = None
        self._has_call = False
        self._closing = MarkerSearch(self._end)

    def _read(self, text: str) -> tuple[list[Piece], str]:
        if self._scanner is None and not self._has_call:
            text = text.lstrip()
            if not text:
                return [], ""
            self._scanner, self._has_call = CallScanner(), True
        if self._scanner is not None:
            return self._scan(text)
        _, after = self._closing.push(text)
        self._is_text = after is not None
        return [], after or ""


class _MistralReader(_MarkedReader):
    """[TOOL_CALLS][{"name": ..., "arguments": ...}, ...], or for each call [TOOL_CALLS]name[ARGS]{...}."""

    marker = "[TOOL_CALLS]"
    _arguments = "[ARGS]"

    def _begin(self) -> None:
        self._scanner = None
        self._name: str | None = None

    def _read(self, text: str) -> tuple[list[Piece], str]:
        if self._scanner is not None:
            return self._scan(text)
        if self._name is not None:
            return self._read_name(text)
        character, rest = text[0], text[1:]
        if character == "{":
            self._scanner = CallScanner()
            return self._scan(text)
        if character == "]":
            self._is_text = True
        elif not character.isspace() and character not in "[,":
            self._name = ""
            return [], text
        return [], rest

    def _read_name(self, text: str) -> tuple[list[Piece], str]:
        assert self._name is not None
        written, brace, rest = text.partition("{")
        self._name += written
        if not brace:
            return [], ""
        self._scanner = CallScanner.of_arguments(self._name.removesuffix(self._arguments).strip())
        self._name = None
        pieces, rest = self._scan(brace + rest)
        # The next call has a marker of its own.
        self._is_text = self._scanner is None
        return pieces, rest

    def _scan(self, text: str) -> tuple[list[Piece], str]:
        alone = self._scanner is not None and self._scanner.is_alone
        pieces, rest = super()._scan(text)
        self._is_text = self._is_text or (alone and self._scanner is None)
        return pieces, rest


class _PlainJsonReader:
    """{"name": ..., "parameters": ...} and nothing else, several with semicolons between them (Llama 3).

    Only names on offer make it a call: an answer may be JSON and have a name, too.
    """

    _tag = "<|python_tag|>"

    def __init__(self, calls: Calls, names: Collection[str]) -> None:
        self._calls = calls
        self._names = names
        self._scanner: CallScanner | None = None
        self._held: list[Piece] = []
        self._start = ""
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
            self._held, self._scanner, self._is_text = [], None, True
            return [], scanner.raw + rest
        pieces, self._held = self._held, []
        if scanner.is_done or scanner.has_failed:
            self._scanner = None
        return pieces, rest

    @property
    def _is_known(self) -> bool:
        return self._scanner is not None and self._scanner.name in self._names
