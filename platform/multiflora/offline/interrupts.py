"""Ctrl-C between steps instead of within one, whose work would be half done: a program that goes on may go on asking.

Owns the handler of SIGINT for as long as work must not be left half done; knows no engine.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Of the main thread, which alone is interrupted; elsewhere there is nothing to hold back."""

    def __init__(self) -> None:
        # What the program does about Ctrl-C; None while nothing is held back.
        self._handler: Callable[[int, FrameType | None], object] | None = None
        self._has_come = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """A first Ctrl-C meanwhile comes to the program's handler at the end; a second one at once, for what hangs."""
        handler = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()
        if self._handler is not None or not is_main or not callable(handler):
            yield
            return
        self._handler = handler
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
            self._handler = None
            if self._has_come:
                self._pass_on(handler, None)

    def let_in(self) -> None:
        """Nothing is half done here: what is held back comes to the program's handler, which mostly raises."""
        if self._has_come and self._handler is not None:
            self._pass_on(self._handler, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        assert self._handler is not None, "it is the handler while something is held back"
        if self._has_come:
            self._pass_on(self._handler, frame)
        self._has_come = True

    def _pass_on(self, handler: Callable[[int, FrameType | None], object], frame: FrameType | None) -> None:
        self._has_come = False
        handler(signal.SIGINT, frame)
