"""When the engine process goes: with its parent, or when it is asked to. Signals live here and nowhere else."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1


class ProcessLifetime:
    """When to go: at once when the parent has died; on SIGTERM after the running requests. Ctrl-C is the parent's.

    loading: nothing is running yet, SIGTERM ends the process where it stands.
    """

    def __init__(self) -> None:
        self.stop_requested = False
        self.loading = True
        self._parent = os.getppid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if sys.platform == "linux":
            # Kills us even in the middle of a long step; `orphaned` is for the race before this line and other systems.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    @property
    def orphaned(self) -> bool:
        return os.getppid() != self._parent

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True
        if self.loading:
            sys.exit(0)
