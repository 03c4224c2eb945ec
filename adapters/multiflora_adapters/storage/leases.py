"""Which artifacts some process needs now: a shared lock on one byte of a file for each digest.

The system frees a killed process's locks. Works on local file systems and NFS. Knows digests only.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ArtifactLeases:
    """May be used by several threads. One for each file in a process: POSIX locks do not conflict within one, which
    counts its own holders here, and are lost when any descriptor of the file is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._held: Counter[str] = Counter()
        self._turn = threading.Lock()

    def acquire(self, digest: str) -> None:
        """This process needs the artifact."""
        with self._turn:
            if not self._held[digest]:
                self._lock(fcntl.LOCK_SH, digest)
            self._held[digest] += 1

    def release(self, digest: str) -> None:
        """Once for each `acquire`."""
        with self._turn:
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]
                self._lock(fcntl.LOCK_UN, digest)

    @contextmanager
    def held(self, digest: str) -> Iterator[None]:
        self.acquire(digest)
        try:
            yield
        finally:
            self.release(digest)

    def acquire_all(self) -> None:
        """No artifact may go: a backup is being made. Until `close`."""
        fcntl.lockf(self._file(), fcntl.LOCK_SH)

    def is_held_here(self, digest: str) -> bool:
        return digest in self._held

    @contextmanager
    def alone(self, digest: str) -> Iterator[bool]:
        """Whether no process holds it, nor can before this ends."""
        with self._turn:
            is_alone = digest not in self._held and self._try_alone(digest)
            try:
                yield is_alone
            finally:
                if is_alone:
                    self._lock(fcntl.LOCK_UN, digest)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _try_alone(self, digest: str) -> bool:
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, digest)
        except OSError:
            return False
        return True

    def _lock(self, operation: int, digest: str) -> None:
        fcntl.lockf(self._file(), operation, 1, int(digest[:15], 16))

    def _file(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        return self._descriptor
