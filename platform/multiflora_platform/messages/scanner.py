"""The loop that reads one tool call, character by character; each form's own scanner knows how a call is written."""

from __future__ import annotations


class Scanner:
    """Made for one call. A subclass's `_read` sets the state, which readers look at after each push."""

    def __init__(self) -> None:
        # The function's, as soon as it is known.
        self.name: str | None = None
        # The call has ended; what follows is no part of it.
        self.is_done = False
        # A character has come that no call can have there.
        self.has_failed = False
        # Everything read so far: it goes out as text when this turns out to be no call.
        self.raw = ""

    def push(self, text: str) -> tuple[str, str]:
        """(what this adds to the arguments, what stands behind the call)."""
        out = ""
        for at, character in enumerate(text):
            if self.is_done or self.has_failed:
                self.raw += text[:at]
                return out, text[at:]
            out += self._read(character)
        self.raw += text
        return out, ""

    def _read(self, character: str) -> str:
        """Take one character; returns what it adds to the arguments."""
        raise NotImplementedError
