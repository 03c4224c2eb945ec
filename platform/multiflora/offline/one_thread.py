"""Holds an LLM to one thread at a time: a second one is refused at once instead of stepping the same engine.

Knows no engine; calls of the same thread may overlap, as streams do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OneThread:
    """Free again when the last call of the thread that has it is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._calls = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises RuntimeError while another thread's call runs."""
        with self._lock:
            if self._calls and self._thread != threading.get_ident():
                raise RuntimeError(
                    "This LLM is in use by another thread, and it serves one at a time. Give all prompts to one call "
                    "of generate, which computes them together, or run `multiflora serve` and let the threads be its "
                    "clients."
                )
            self._thread = threading.get_ident()
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
