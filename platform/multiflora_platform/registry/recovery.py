"""What a server that was stopped at the wrong moment left behind, and who may clean it up. Owns the folder's lock."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path

from multiflora_platform.registry import idempotency, versions
from multiflora_platform.registry.artifacts import Artifacts
from multiflora_platform.registry.database import Change, Database
from multiflora_platform.registry.ingest import Scratch

_log = logging.getLogger(__name__)


class FolderLock:
    """Held as long as the process lives; the system frees it when the process is killed."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_ours = True
        except OSError:
            self.is_ours = False
            _log.warning("another server uses %s; its unfinished uploads are left alone", path.parent)

    def close(self) -> None:
        os.close(self._descriptor)


async def recover(database: Database, scratch: Scratch, artifacts: Artifacts) -> None:
    """Versions that were being made are rejected, their files and artifacts that nobody names are removed."""

    async def work(change: Change) -> None:
        await versions.reject_unfinished(change)
        await idempotency.forget_old(change)

    await asyncio.to_thread(scratch.clear)
    await database.write("system", work)
    await artifacts.collect_orphans()
