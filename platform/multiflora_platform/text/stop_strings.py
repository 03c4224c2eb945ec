"""Finds stop strings in text that arrives in pieces, and holds back whatever may turn out to be the start of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """One sequence's scanner. stop: non-empty strings. include: whether the answer keeps the stop string."""

    def __init__(self, stop: Sequence[str], include: bool = False) -> None:
        assert all(stop), "checked with the request's parameters"
        self._stop = tuple(stop)
        self._include = include
        self._longest = max(map(len, stop), default=0)
        self._open = ""

    def push(self, text: str, *, armed: bool = True) -> tuple[str, str | None]:
        """(text that may go out, the stop string that was found).

        armed: False below min_tokens, where a match that ends in this text does not count.
        """
        if not self._stop:
            return text, None
        buffer, sent = self._open + text, len(self._open) if self._include else 0
        if armed and text and (found := self._find(buffer, len(self._open))):
            end, stop = found
            self._open = ""
            return buffer[sent : end if self._include else end - len(stop)], stop
        start = len(buffer) - self._open_match(buffer)
        self._open = buffer[start:]
        return (text if self._include else buffer[:start]), None

    def flush(self) -> str:
        """What was held back, when the sequence ends without a stop string."""
        held, self._open = self._open, ""
        return "" if self._include else held

    def _find(self, buffer: str, old: int) -> tuple[int, str] | None:
        """(end, stop) of the match that ends first among those that end in the new text; of equals, the longest."""
        best: tuple[int, str] | None = None
        for stop in self._stop:
            at = buffer.find(stop, max(0, old - len(stop) + 1))
            if at >= 0 and (best is None or (at + len(stop), -len(stop)) < (best[0], -len(best[1]))):
                best = (at + len(stop), stop)
        return best

    def _open_match(self, buffer: str) -> int:
        """Length of the longest end of the buffer that begins some stop string without completing it."""
        for length in range(min(self._longest - 1, len(buffer)), 0, -1):
            tail = buffer[-length:]
            if any(len(stop) > length and stop.startswith(tail) for stop in self._stop):
                return length
        return 0
