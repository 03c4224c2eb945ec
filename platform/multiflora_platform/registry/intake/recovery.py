"""What a stopped server left behind, and which process may clean it up. Owns the folder's lock and the regular sweep.

Nothing here decides what becomes of a version: unfinished jobs are taken up again (jobs/runner.py).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path

from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.rows import idempotency, jobs
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.web.problems import Unavailable

_log = logging.getLogger(__name__)
SWEEP_SECONDS = 600.0


class FolderLock:
    """Shared by all processes that use the folder, as long as each lives. is_alone: no other used it at our start."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        # The first process holds it alone until it has recovered: a second one that starts meanwhile waits below, and
        # its files are not taken for leftovers. The system frees the lock of a process that is killed.
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_alone = True
        except OSError:
            self.is_alone = False
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def admit_others(self) -> None:
        """The start is over: others may come, and see that they are not alone."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def close(self) -> None:
        os.close(self._descriptor)


async def recover(database: Database, scratch: Scratch, artifacts: Artifacts) -> None:
    """By the only process: leases end, and what no unfinished job needs is removed."""

    async def work(change: Change) -> list[str]:
        # Without this, jobs of a killed server would wait for the end of its leases.
        await jobs.end_leases(change, scratch.has_job)
        await idempotency.forget_old(change)
        return await jobs.unfinished_ids(change.session)

    await asyncio.to_thread(scratch.clear, await database.write("system", work))
    # Of any age: this process is alone, so that no other can be adding.
    await asyncio.to_thread(artifacts.store.remove_abandoned, 0.0)
    await artifacts.sweep()


class Sweeper:
    """Cleans up now and then, also after other processes that were killed."""

    def __init__(self, database: Database, artifacts: Artifacts, scratch: Scratch) -> None:
        self._database = database
        self._artifacts = artifacts
        self._scratch = scratch
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> None:
        """Raises Unavailable while the database is away."""
        await self._database.write("system", idempotency.forget_old)
        await self._artifacts.sweep()
        # A folder without a job may be one that is being filed at this moment; the next lone start knows.
        async with self._database.read() as session:
            ended = await jobs.ended_ids(session, self._scratch.job_ids())
        for job_id in ended:
            await self._scratch.remove(job_id)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except Unavailable:
                continue
            except Exception:
                _log.exception("the regular clean-up failed; trying again later")
