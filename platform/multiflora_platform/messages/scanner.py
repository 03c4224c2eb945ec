"""What reads one tool call, character by character; how a call is written is said by each form's own scanner."""

from __future__ import annotations


class Scanner:
    """name: as soon as it is known. is_done: the call has ended; what follows is no part of it. has_failed: it is none.

    raw: everything read so far.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.is_done = False
        self.has_failed = False
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
        """What this adds to the arguments."""
        raise NotImplementedError
