"""Reads answers in channels, OpenAI's harmony format (gpt-oss): thoughts, calls and text, each a message with a header.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
    <|channel|>commentary to=functions.name <|constrain|>json<|message|>{...}<|call|>

The prompt ends within the first header. What a header cannot have is text, and is never lost.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from multiflora_platform.messages.markers import MarkerSearch
from multiflora_platform.messages.pieces import CallArguments, CallBegin, Content, Piece, Reasoning

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
HARMONY_MARKERS = (START, CHANNEL, MESSAGE, CONSTRAIN, *_ENDS)
_FUNCTIONS = "functions."
_ROLES = ("assistant", "user", "system", "developer", "tool")
_CHANNELS = ("analysis", "commentary", "final")
# Models leave the marker before the content's type out.
_BEHIND_CHANNEL = ("to=", CONSTRAIN, "json", "code", "text")
# A function's name has 128 characters at most.
_LONGEST_HEADER = 300
# Of a header, as far as it is one. The recipient stands in the role's part or in the channel's.
_HEADER = re.compile(
    rf"""(?:\s*<\|start\|>\s*(?P<role>{"|".join(_ROLES)})?)?
    (?P<of_role>\s*to=[^\s<]*)?
    (?:\s*<\|channel\|>\s*(?P<channel>{"|".join(_CHANNELS)})?
    (?P<of_channel>\s*to=[^\s<]*)?
    (?:\s*<\|constrain\|>\s*\w*)?)?""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class ChannelPlace:
    """Where in the format an answer begins; `place_after` finds it in the prompt."""

    header: str | None = ""
    """What there is of one, with its markers; None: within a message's body."""
    kind: type[Reasoning] | type[Content] | None = None
    """Of that body's text."""


NEW_MESSAGE = ChannelPlace()


def place_after(prompt_end: str) -> ChannelPlace:
    """prompt_end: the prompt from its last message on. An answer may go on within that one, and within a call, too: as
    it was the client that began it, the rest goes where its channel says."""
    # Whatever is before the last marker between messages decides nothing.
    last = max(prompt_end.rfind(marker) for marker in (START, *_ENDS))
    return HarmonyReader((), only_one=False).skip(prompt_end[max(last, 0) :])


class HarmonyReader:
    """Of one answer. names: of the functions on offer; without any, what calls a function goes where its channel says:
    analysis is reasoning, all else content. only_one: calls after the first are left out. begin: the answer's.
    """

    def __init__(self, names: Collection[str], only_one: bool, begin: ChannelPlace = NEW_MESSAGE) -> None:
        self._names = names
        self._only_one = only_one
        self._search = MarkerSearch(START, CHANNEL, MESSAGE, *_ENDS)
        # With its markers. None: within a message's body.
        self._header = begin.header
        # Makes the pieces of the body's text; of a call, None.
        self._kind = begin.kind
        # Calls that have begun.
        self._num_calls = 0
        # Of the call's arguments, something has come.
        self._has_arguments = False
        # Kinds of which something has gone out, and those whose next text belongs to another message.
        self._said: set[type[Piece]] = set()
        self._parted: set[type[Piece]] = set()

    def skip(self, prompt_end: str) -> ChannelPlace:
        """Where what follows begins. An end that looks like the beginning of a marker is the prompt's, and not said."""
        self.push(prompt_end)
        return ChannelPlace(self._header, self._kind)

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for before, marker in self._search.split(text):
            pieces += self._text(before) if before else []
            pieces += self._mark(marker) if marker is not None else []
        return pieces

    def flush(self) -> list[Piece]:
        held = self._search.flush()
        pieces = self._text(held) if held else []
        return pieces + (self._end_body() if self._header is None else self._end_header())

    def _mark(self, marker: str) -> list[Piece]:
        if marker == MESSAGE:
            return [] if self._header is None else self._begin_body(self._header)
        if marker == CHANNEL and self._header is not None and CHANNEL not in self._header:
            self._header += marker
            return []
        pieces = self._end_body() if self._header is None else self._end_header()
        self._header = "" if marker in _ENDS else marker
        return pieces

    def _text(self, text: str) -> list[Piece]:
        if self._header is None:
            return self._body(text)
        self._header += text
        found = _matched(self._header)
        rest = self._header[found.end() :].strip()
        may_go_on = any(word.startswith(rest) for word in _next_words(self._header, found))
        return [] if may_go_on and len(self._header) <= _LONGEST_HEADER else self._end_header()

    def _end_header(self) -> list[Piece]:
        """The message begins without its marker, if there is text in the header."""
        assert self._header is not None, "a header is being read"
        header, found = self._header, _matched(self._header)
        text = self._text_in(header, found)
        is_cut = any(word.startswith(text.strip()) for word in _named(header, found))
        is_space = not text.strip() and (self._said or self._num_calls or found[0])
        return [] if not text or is_cut or is_space else self._begin_body(header) + self._body(text)

    def _text_in(self, header: str, found: re.Match[str]) -> str:
        """A recipient with text behind it is one only of a call."""
        rest = header[found.end() :]
        if self._function(found) is not None or (not rest.strip() and len(header) <= _LONGEST_HEADER):
            return rest
        recipient = "of_channel" if CHANNEL in header else "of_role"
        return header[found.start(recipient) :] if found[recipient] else rest

    def _begin_body(self, header: str) -> list[Piece]:
        found = _matched(header)
        name = self._function(found)
        self._header = None
        if name is None:
            self._kind = Reasoning if found["channel"] == "analysis" else Content
            self._parted |= self._said & {self._kind}
            return []
        self._kind, self._has_arguments = None, False
        self._num_calls += 1
        return self._of_call(CallBegin(self._num_calls - 1, name))

    def _function(self, found: re.Match[str]) -> str | None:
        """What the header calls, if that is a function of the client's."""
        recipient = (found["of_channel"] or found["of_role"] or "").strip().removeprefix("to=")
        name = recipient.removeprefix(_FUNCTIONS)
        is_function = 0 < len(name) < _LONGEST_HEADER and (name != recipient or name in self._names)
        return name if self._names and is_function else None

    def _body(self, text: str) -> list[Piece]:
        if self._kind is None:
            text = text if self._has_arguments else text.lstrip()
            self._has_arguments = self._has_arguments or bool(text)
            return self._of_call(CallArguments(self._num_calls - 1, text)) if text else []
        if self._kind in self._parted:
            text = f"\n{text}"
            self._parted.discard(self._kind)
        self._said.add(self._kind)
        return [self._kind(text)]

    def _end_body(self) -> list[Piece]:
        is_bare = self._kind is None and not self._has_arguments
        return self._of_call(CallArguments(self._num_calls - 1, "{}")) if is_bare else []

    def _of_call(self, piece: Piece) -> list[Piece]:
        return [] if self._only_one and self._num_calls > 1 else [piece]


def _matched(header: str) -> re.Match[str]:
    found = _HEADER.match(header)
    assert found is not None, "each of its parts may be missing"
    return found


def _named(header: str, found: re.Match[str]) -> tuple[str, ...]:
    """What stands at the header's end must be one of them, whole or cut off; none where there must be nothing."""
    if CHANNEL in header:
        return () if found["channel"] else _CHANNELS
    return _ROLES if START in header and not found["role"] else ()


def _next_words(header: str, found: re.Match[str]) -> tuple[str, ...]:
    """With which of them the header may go on."""
    return (*_named(header, found), *(_BEHIND_CHANNEL if CHANNEL in header else ("to=",)))
