"""Whether SQLite's file has been committed to, for some microseconds of the event loop: SQLite's own count of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path


class FileVersion:
    """Of one file, which exists. Used by the thread that made it; waits for no lock."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)

    def read(self) -> int | None:
        """A number that changes with each commit to the file, whichever process makes it; None: it cannot be told."""
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return None
        return int(version)

    def close(self) -> None:
        self._connection.close()
