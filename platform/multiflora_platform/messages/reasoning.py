"""Reasoning: how models mark it, how it is told from the answer as it comes, and how grammars leave room for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from multiflora_platform.messages.markers import MarkerSearch
from multiflora_platform.messages.pieces import Content, Piece, Reasoning
from multiflora_platform.structured.formats import (
    Format,
    const,
    either,
    sequence,
    tag,
)

# Models put line breaks behind the end marker; without room for them a grammar would forbid what they learned.
_GAP: Format = {"type": "regex", "pattern": r"[ \n]{0,4}"}


@dataclass(frozen=True)
class ReasoningFormat:
    """Reasoning stands between two markers."""

    begin: str
    end: str
    # It begins with the answer, marker or not.
    is_implied: bool = False


# Names as vLLM's --reasoning-parser has them.
REASONING_FORMATS = {
    "deepseek_r1": ReasoningFormat("<think>", "</think>", is_implied=True),
    "qwen3": ReasoningFormat("<think>", "</think>"),
    "glm45": ReasoningFormat("<think>", "</think>"),
    "granite": ReasoningFormat("Here is my thought process:", "Here is my response:"),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "seed_oss": ReasoningFormat("<seed:think>", "</seed:think>"),
}


class ReasoningState(enum.Enum):
    """Where an answer stands: it is reasoning, it may begin with reasoning, it is content."""

    OPEN = "open"
    POSSIBLE = "possible"
    OVER = "over"


def state_after(prompt_end: str, form: ReasoningFormat) -> ReasoningState:
    """Of an answer to a prompt that ends so: many templates open the reasoning, or close it when it is switched off."""
    tail = prompt_end.rstrip()
    if tail.endswith(form.end):
        return ReasoningState.OVER
    if tail.endswith(form.begin) or form.is_implied:
        return ReasoningState.OPEN
    return ReasoningState.POSSIBLE


def with_reasoning(answer: Format, form: ReasoningFormat, state: ReasoningState) -> Format:
    """The answer's format, after reasoning that is free."""
    if state is ReasoningState.OVER:
        return answer
    anything: Format = {"type": "any_text"}
    if state is ReasoningState.OPEN:
        return sequence(tag("", anything, form.end), _GAP, answer)
    return sequence(either(sequence(tag(form.begin, anything, form.end), _GAP), const("")), answer)


class ReasoningReader:
    """Divides one answer into reasoning and content; line breaks around the markers belong to neither."""

    def __init__(self, form: ReasoningFormat, state: ReasoningState) -> None:
        self._form = form
        self._state = state
        self._search = MarkerSearch(form.end)
        # At the beginning: what has come and may become the opening marker. None: that is decided.
        self._start: str | None = None if state is ReasoningState.OVER else ""
        # Nothing has gone out since the start or a marker: line breaks are dropped.
        self._begins = True

    def push(self, text: str) -> list[Piece]:
        return self._divide(text) if self._start is None else self._decide(self._start + text)

    def flush(self) -> list[Piece]:
        """At the end: what was held back."""
        return self._piece((self._start or "") + self._search.flush())

    def _decide(self, start: str) -> list[Piece]:
        """Whether the opening marker comes. Where reasoning is open already, it is only dropped."""
        begun = start.lstrip()
        if begun.startswith(self._form.begin):
            self._state, rest = ReasoningState.OPEN, begun[len(self._form.begin) :]
        elif self._form.begin.startswith(begun):
            self._start = start
            return []
        else:
            rest = start
            if self._state is ReasoningState.POSSIBLE:
                self._state = ReasoningState.OVER
        self._start = None
        return self._divide(rest)

    def _divide(self, text: str) -> list[Piece]:
        if self._state is not ReasoningState.OPEN:
            return self._piece(text)
        before, after = self._search.push(text)
        pieces = self._piece(before)
        if after is not None:
            self._state, self._begins = ReasoningState.OVER, True
            pieces += self._piece(after)
        return pieces

    def _piece(self, text: str) -> list[Piece]:
        if self._begins:
            text = text.lstrip("\n")
        self._begins = self._begins and not text
        if not text:
            return []
        return [Reasoning(text) if self._state is ReasoningState.OPEN else Content(text)]
