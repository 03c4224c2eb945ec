"""How an assistant's text is to be read, and the reading of it: whole, or piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from multiflora_platform.messages.pieces import (
    CallArguments,
    CallBegin,
    Content,
    Piece,
    Reasoning,
)
from multiflora_platform.messages.reasoning import ReasoningFormat, ReasoningReader, ReasoningState
from multiflora_platform.messages.tool_readers import ToolReader


@dataclass
class Call:
    name: str
    # JSON, once the message is complete.
    arguments: str = ""


@dataclass
class Message:
    """An assistant's message, put together from pieces by `add`."""

    # None in both: there is none, which is not an empty one.
    reasoning: str | None = None
    content: str | None = None
    calls: list[Call] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        match piece:
            case Reasoning(text):
                self.reasoning = (self.reasoning or "") + text
            case Content(text):
                self.content = (self.content or "") + text
            case CallBegin(_, name):
                self.calls.append(Call(name))
            case CallArguments(index, text):
                self.calls[index].arguments += text


@dataclass(frozen=True)
class MessageFormat:
    """What to look for in an answer; the gateway makes one for each request. Each answer gets readers of its own."""

    # How the model marks it, and where an answer to this prompt begins. None: it is not told apart.
    reasoning: tuple[ReasoningFormat, ReasoningState] | None = None
    # Makes the reader of one answer's calls, and of its channels where the model writes these. None: there are neither.
    tools: Callable[[], ToolReader] | None = None

    def reader(self) -> MessageReader:
        return MessageReader(
            ReasoningReader(*self.reasoning) if self.reasoning else None, self.tools() if self.tools else None
        )

    def read(self, text: str) -> Message:
        """A complete answer."""
        message, reader = Message(), self.reader()
        for piece in reader.push(text) + reader.flush():
            message.add(piece)
        return message


class MessageReader:
    """Reads one answer: first its reasoning apart, then the calls in its content."""

    def __init__(self, reasoning: ReasoningReader | None, tools: ToolReader | None) -> None:
        self._reasoning = reasoning
        self._tools = tools
        # A tool call has begun; the gateway's finish reason depends on it.
        self.has_calls = False

    @property
    def is_plain(self) -> bool:
        """Whether everything is content."""
        return self._reasoning is None and self._tools is None

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = [Content(text)] if text else []
        if self._reasoning is not None and text:
            pieces = self._reasoning.push(text)
        return self._find_calls(pieces)

    def flush(self) -> list[Piece]:
        """At the end: what was held back."""
        pieces = self._find_calls(self._reasoning.flush() if self._reasoning else [])
        return pieces + (self._seen(self._tools.flush()) if self._tools else [])

    def _find_calls(self, pieces: list[Piece]) -> list[Piece]:
        if self._tools is None:
            return pieces
        found: list[Piece] = []
        for piece in pieces:
            found += self._seen(self._tools.push(piece.text)) if isinstance(piece, Content) else [piece]
        return found

    def _seen(self, pieces: list[Piece]) -> list[Piece]:
        self.has_calls = self.has_calls or any(isinstance(piece, CallBegin) for piece in pieces)
        return pieces
