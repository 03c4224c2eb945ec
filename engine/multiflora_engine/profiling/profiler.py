"""One profile of this process at a time, recorded on a thread of its own. Knows neither requests nor steps."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

from multiflora_engine.profiling.memory_growth import record_memory
from multiflora_engine.profiling.stacks import record_stacks
from multiflora_engine.profiling.torch_trace import record_torch

_log = logging.getLogger(__name__)

MAX_BYTES = 64 << 20
"""Of a trace as it is sent."""
_RECORDERS = {"torch": record_torch, "python": record_stacks, "memory": record_memory}


class Recording(NamedTuple):
    """What came of it: a trace, or why there is none."""

    trace: bytes = b""
    error: str | None = None


class AlreadyRecording(Exception):
    """Another one is being recorded."""


class Profiler:
    """The caller starts one, and looks for its end."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._done: Recording | None = None

    def start(self, kind: str, seconds: float) -> None:
        """kind: torch (operations of all threads), python (stacks), memory (what grows). Raises AlreadyRecording."""
        if self._thread is not None:
            raise AlreadyRecording
        self._thread = threading.Thread(target=self._record, args=(kind, seconds), name="profiler", daemon=True)
        self._thread.start()

    def take(self) -> Recording | None:
        """What was recorded, once; None while it is not done, or nothing is recorded."""
        done = self._done
        if done is not None:
            self._thread = self._done = None
        return done

    def _record(self, kind: str, seconds: float) -> None:
        try:
            trace = _RECORDERS[kind](seconds)
        except OSError as error:
            self._done = Recording(error=f"The trace could not be written: {error.strerror or error}.")
        except Exception as error:
            # What is wrong with a profile must not end the process that is profiled.
            _log.exception("A profile of kind %s failed", kind)
            self._done = Recording(error=f"The profile failed: {type(error).__name__}: {error}")
        else:
            too_large = f"The trace has {len(trace)} bytes, {MAX_BYTES} at most are kept; record fewer seconds."
            self._done = Recording(trace) if len(trace) <= MAX_BYTES else Recording(error=too_large)
