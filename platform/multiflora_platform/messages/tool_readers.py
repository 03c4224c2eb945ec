"""Readers that find tool calls in content as it comes, one for each form of writing them (tool_formats.py).

What looks like a call and is none goes out as content; a call that has gone out is not taken back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from multiflora_platform.messages.call_scanner import CallScanner
from multiflora_platform.messages.harmony import NEW_MESSAGE, ChannelPlace, HarmonyReader
from multiflora_platform.messages.marked_reader import Calls, MarkedReader
from multiflora_platform.messages.markers import MarkerSearch
from multiflora_platform.messages.pieces import Piece
from multiflora_platform.messages.plain_readers import PlainJsonReader, PythonicReader
from multiflora_platform.messages.tool_formats import ToolFormat
from multiflora_platform.messages.xml_call import XmlCallScanner

Schemas = Mapping[str, dict[str, Any]]


class ToolReader(Protocol):
    def push(self, text: str) -> list[Piece]: ...

    def flush(self) -> list[Piece]:
        """At the end: what was held back."""


def make_reader(form: ToolFormat, schemas: Schemas, only_one: bool, begin: ChannelPlace = NEW_MESSAGE) -> ToolReader:
    """schemas: of the arguments of the tools on offer, by name. only_one: calls after the first are left out.
    begin: see `HarmonyReader`; no other form needs it."""
    if form.kind == "harmony":
        return HarmonyReader(schemas, only_one, begin)
    return _READERS[form.kind](Calls(only_one), schemas)


class _HermesReader(MarkedReader):
    """<tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>, as often as there are calls."""

    markers = ("<tool_call>",)
    _end = "</tool_call>"

    def _begin(self) -> None:
        self._scanner = None
        self._has_call = False
        self._closing = MarkerSearch(self._end)

    def _read(self, text: str) -> tuple[list[Piece], str]:
        if self._scanner is None and not self._has_call:  # line breaks behind the marker
            text = text.lstrip()
            if not text:
                return [], ""
            self._scanner, self._has_call = CallScanner(), True
        if self._scanner is not None:
            return self._scan(text)
        _, after = self._closing.push(text)
        self._is_text = after is not None
        return [], after or ""


class _MistralReader(MarkedReader):
    """[TOOL_CALLS][{"name": ..., "arguments": ...}, ...], or for each call [TOOL_CALLS]name[ARGS]{...}, perhaps with
    [CALL_ID]... behind the name."""

    markers = ("[TOOL_CALLS]",)
    _behind_name = re.compile(r"\[(CALL_ID|ARGS)\]")

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
        self._scanner = CallScanner.of_arguments(self._behind_name.split(self._name)[0].strip())
        self._name = None
        pieces, rest = self._scan(brace + rest)
        # The next call has a marker of its own.
        self._is_text = self._scanner is None
        return pieces, rest

    def _scan(self, text: str) -> tuple[list[Piece], str]:
        # With the name apart, nothing closes the list: text follows the arguments at once.
        alone = isinstance(self._scanner, CallScanner) and self._scanner.is_alone
        pieces, rest = super()._scan(text)
        self._is_text = self._is_text or (alone and self._scanner is None)
        return pieces, rest


class _XmlReader(MarkedReader):
    """<tool_call>\\n<function=name>...</function>\\n</tool_call> (Qwen3-Coder). Models forget the outer tags; Hermes'
    JSON within them is understood, too."""

    markers = ("<tool_call>", "<function=", "</tool_call>")

    def __init__(self, calls: Calls, schemas: Schemas) -> None:
        super().__init__(calls)
        self._schemas = schemas

    def _begin(self) -> None:
        is_open = self._search.found == "<function="
        self._scanner = XmlCallScanner(self._schemas, is_open) if is_open else None
        self._is_text = self._search.found == "</tool_call>"

    def _read(self, text: str) -> tuple[list[Piece], str]:
        if self._scanner is None:
            text = text.lstrip()
            if not text:
                return [], ""
            self._scanner = CallScanner() if text[0] == "{" else XmlCallScanner(self._schemas, is_open=False)
        pieces, rest = self._scan(text)
        self._is_text = self._scanner is None
        return pieces, rest


_READERS: dict[str, Callable[[Calls, Schemas], ToolReader]] = {
    "hermes": lambda calls, schemas: _HermesReader(calls),
    "mistral": lambda calls, schemas: _MistralReader(calls),
    "llama3_json": PlainJsonReader,
    "pythonic": PythonicReader,
    "qwen3_coder": _XmlReader,
}
