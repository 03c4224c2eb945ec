"""Finds a marker in text that comes in pieces, and holds back what may turn out to be its beginning."""

from __future__ import annotations


class MarkerSearch:
    """For one marker, a non-empty string; found once."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._open = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text before the marker that is certain now, the text after the marker or None while it has not come)."""
        buffer = self._open + text
        at = buffer.find(self._marker)
        if at >= 0:
            self._open = ""
            return buffer[:at], buffer[at + len(self._marker) :]
        keep = next(n for n in range(min(len(self._marker) - 1, len(buffer)), -1, -1) if self._opens(buffer, n))
        self._open = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], None

    def flush(self) -> str:
        """At the end: what was held back."""
        held, self._open = self._open, ""
        return held

    def _opens(self, buffer: str, length: int) -> bool:
        return self._marker.startswith(buffer[len(buffer) - length :])
