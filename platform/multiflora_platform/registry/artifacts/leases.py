"""Which artifacts the requests of any process run on: a shared lock on one byte of a file for each digest.

The system frees a killed process's locks. Works on local file systems and NFS. Knows digests only.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class ArtifactLeases:
    """POSIX locks do not conflict within a process: the caller counts its own holders."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def acquire(self, digest: str) -> None:
        """This process needs the artifact."""
        self._lock(fcntl.LOCK_SH, digest)

    def acquire_all(self) -> None:
        """No artifact may go: a backup is being made."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_SH)

    def release(self, digest: str) -> None:
        self._lock(fcntl.LOCK_UN, digest)

    def is_free(self, digest: str) -> bool:
        """Whether no other process holds it."""
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, digest)
        except OSError:
            return False
        self._lock(fcntl.LOCK_UN, digest)
        return True

    def close(self) -> None:
        os.close(self._descriptor)

    def _lock(self, operation: int, digest: str) -> None:
        fcntl.lockf(self._descriptor, operation, 1, int(digest[:15], 16))
