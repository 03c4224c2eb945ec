"""Finds a marker in text that comes in pieces, and holds back what may turn out to be its beginning."""

from __future__ import annotations

import re


class MarkerSearch:
    """For non-empty markers, of which the first to come counts; none is the beginning of another."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers
        self._pattern = re.compile("|".join(map(re.escape, markers)))
        self._longest = max(map(len, markers))
        # The end of the text so far, as far as a marker begins with it.
        self._open = ""
        # The marker that came last; empty before.
        self.found = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text before the marker that is certain now, the text after the marker or None while it has not come)."""
        buffer = self._open + text
        found = self._pattern.search(buffer)
        if found is None:
            return self._hold(buffer), None
        self._open, self.found = "", found[0]
        return buffer[: found.start()], buffer[found.end() :]

    def split(self, text: str) -> list[tuple[str, str | None]]:
        """Each marker with the text before it, and at the end the text that is certain now, with None. In one walk:
        of a text full of markers, `push` would copy all that is behind each of them."""
        buffer = self._open + text
        parts: list[tuple[str, str | None]] = []
        start = 0
        for found in self._pattern.finditer(buffer):
            parts.append((buffer[start : found.start()], found[0]))
            start = found.end()
        return [*parts, (self._hold(buffer[start:]), None)]

    def flush(self) -> str:
        """At the end: what was held back."""
        held, self._open = self._open, ""
        return held

    def _hold(self, buffer: str) -> str:
        """The text before the longest end that a marker begins with; of a whole one, a character would be missing."""
        keep = next(n for n in range(min(self._longest - 1, len(buffer)), -1, -1) if self._opens(buffer, n))
        self._open = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def _opens(self, buffer: str, length: int) -> bool:
        end = buffer[len(buffer) - length :]
        return any(marker.startswith(end) for marker in self._markers)
