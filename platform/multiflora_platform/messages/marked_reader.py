"""What readers of tool calls share: calls counted and turned into pieces, content around them, text up to a marker."""

from __future__ import annotations

from multiflora_platform.messages.markers import MarkerSearch
from multiflora_platform.messages.pieces import (
    CallArguments,
    CallBegin,
    Content,
    Piece,
)
from multiflora_platform.messages.scanner import Scanner


class Calls:
    """Turns what scanners find into pieces, and counts the calls."""

    def __init__(self, only_one: bool) -> None:
        self._only_one = only_one
        # Calls that have ended.
        self._count = 0
        # The call that is being read has gone out with its name.
        self._has_begun = False

    def push(self, scanner: Scanner, text: str) -> tuple[list[Piece], str]:
        """(pieces, the text behind the call)."""
        arguments, rest = scanner.push(text)
        pieces: list[Piece] = []
        if scanner.name is not None and not self._has_begun:
            self._has_begun = True
            pieces.append(CallBegin(self._count, scanner.name))
        if arguments and self._has_begun:
            pieces.append(CallArguments(self._count, arguments))
        # Later calls are read, so that they do not go out as text, and dropped.
        if self._only_one and self._count:
            pieces = []
        if scanner.is_done or scanner.has_failed:
            self._count += self._has_begun
            self._has_begun = False
        return pieces, rest


class Text:
    """Content around calls. Space before a call, after one and between two belongs to neither; it waits for text."""

    def __init__(self) -> None:
        # Space at the end so far, which may stand before a call.
        self._space = ""
        # A call has ended and no text has come since.
        self.is_after_call = False

    def push(self, text: str) -> list[Piece]:
        text = self._space + text
        if self.is_after_call:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        self.is_after_call = self.is_after_call and not kept
        return [Content(kept)] if kept else []

    def call(self) -> None:
        self._space, self.is_after_call = "", True

    def flush(self) -> list[Piece]:
        space, self._space = self._space, ""
        return [Content(space)] if space and not self.is_after_call else []


class MarkedReader:
    """Text up to one of the markers, then calls. A subclass knows the markers and what stands behind them."""

    markers: tuple[str, ...] = ()

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._text = Text()
        self._search = MarkerSearch(*self.markers)
        # Of the call that is being read.
        self._scanner: Scanner | None = None
        # Outside of markers; `_begin` and `_read` switch it.
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
        if self._text.is_after_call:  # the beginning of one more call, which was cut, is no text
            return []
        # What has not named a function was no call: the client gets it as it was written.
        if self._scanner is not None and self._scanner.name is None:
            held = self._search.found + self._scanner.raw
        return (self._text.push(held) if held else []) + self._text.flush()

    def _begin(self) -> None:
        """After a marker, which is `self._search.found`."""

    def _read(self, text: str) -> tuple[list[Piece], str]:
        """(pieces, the text that is not read yet). Everything is read, or the reader's state changes."""
        raise NotImplementedError

    def _scan(self, text: str) -> tuple[list[Piece], str]:
        """Of a call that has begun."""
        assert self._scanner is not None
        pieces, rest = self._calls.push(self._scanner, text)
        if self._scanner.has_failed and self._scanner.name is None:
            pieces, self._is_text = self._text.push(self._search.found + self._scanner.raw), True
        elif self._scanner.name is not None:
            self._text.call()
        if self._scanner.is_done or self._scanner.has_failed:
            self._scanner = None
        return pieces, rest
