"""Finds a marker in text that comes in pieces, and holds back what may turn out to be its beginning."""

from __future__ import annotations


class MarkerSearch:
    """For non-empty markers, of which the first to come counts."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers
        self._longest = max(map(len, markers))
        # The end of the text so far, as far as a marker begins with it.
        self._open = ""
        # The marker that came last; empty before.
        self.found = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text before the marker that is certain now, the text after the marker or None while it has not come)."""
        buffer = self._open + text
        places = [(at, marker) for marker in self._markers if (at := buffer.find(marker)) >= 0]
        if places:
            at, self.found = min(places)
            self._open = ""
            return buffer[:at], buffer[at + len(self.found) :]
        # The longest end that a marker begins with; of a whole marker one character would be missing.
        keep = next(n for n in range(min(self._longest - 1, len(buffer)), -1, -1) if self._opens(buffer, n))
        self._open = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], None

    def flush(self) -> str:
        """At the end: what was held back."""
        held, self._open = self._open, ""
        return held

    def _opens(self, buffer: str, length: int) -> bool:
        end = buffer[len(buffer) - length :]
        return any(marker.startswith(end) for marker in self._markers)
