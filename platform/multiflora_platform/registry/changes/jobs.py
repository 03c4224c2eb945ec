"""The transaction that cancels a job; and looking at jobs, once or as they go on.

What may become of a job is in rows/jobs.py; jobs/runner.py runs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec

from multiflora_adapters.validation import ValidationRow
from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.errors import JobEnded
from multiflora_platform.registry.jobs.runner import JobRunner
from multiflora_platform.registry.rows import jobs, versions
from multiflora_platform.registry.rows.idempotency import StoredAnswer
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import AdapterRow, JobRow, VersionRow

_LOOK_SECONDS = 0.5
_KEEPALIVE_LOOKS = 30
_CANCELLED = ValidationRow(check="cancelled", severity="error", message="The job was cancelled.")


class JobChanges:
    """Does not know which client may see which job: the routes decide by the job's adapter."""

    def __init__(
        self, database: Database, snapshots: SnapshotStore, runner: JobRunner, scratch: Scratch, artifacts: Artifacts
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._runner = runner
        self._scratch = scratch
        self._artifacts = artifacts
        self._stopped = False

    async def view(self, job_id: str) -> dict[str, Any]:
        """Raises JobNotFound."""
        async with self._database.read() as session:
            return (await jobs.views(session, [await jobs.require(session, job_id)]))[0]

    async def page(
        self, after: tuple[datetime, str] | None, limit: int, state: str | None, adapter_ids: list[int] | None
    ) -> list[dict[str, Any]]:
        """Newest first. adapter_ids: of these only."""
        async with self._database.read() as session:
            return await jobs.views(session, await jobs.page(session, after, limit, state, adapter_ids))

    async def cancel(self, job_id: str, actor: str) -> dict[str, Any]:
        """Its version is rejected, and what was fetched is dropped. Raises JobNotFound, JobEnded."""

        async def work(change: Change) -> tuple[JobRow, str | None]:
            job = await jobs.require(change.session, job_id)
            if job.state not in jobs.UNFINISHED:
                raise JobEnded(f"The job has ended: it {job.state}.")
            adapter = await change.session.get_one(AdapterRow, job.adapter_id)
            version = await versions.reject(change, job.version_id, [_CANCELLED])
            jobs.finish(change, job, StoredAnswer(409, {"detail": "The job was cancelled."}))
            change.record("job.cancelled", job.id, adapter=adapter.name, version=version.number, job=job.id)
            await self._snapshots.touch(change, adapter.name)
            return job, version.digest

        job, digest = await self._database.write(actor, work)
        self._runner.stopped(job.id)
        await self._scratch.remove(job.id)
        if digest is not None:
            self._artifacts.collect_soon(digest)
        return await self.view(job_id)

    async def follow(self, job_id: str) -> AsyncIterator[bytes]:
        """Frames of text/event-stream: the job whenever it has changed, until it has ended."""
        shown: dict[str, Any] | None = None
        quiet = 0
        while not self._stopped:
            # Looked up rather than signalled: the job may run in another process.
            view = await self.view(job_id)
            if view != shown:
                shown, quiet = view, 0
                yield b"event: job\ndata: %s\n\n" % msgspec.json.encode(view)
            if view["state"] not in jobs.UNFINISHED:
                return
            quiet += 1
            if quiet % _KEEPALIVE_LOOKS == 0:
                yield b": keep-alive\n\n"
            await asyncio.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """End every client's live view, so that a server that drains is not kept open by them."""
        self._stopped = True


async def cancel_all(change: Change, adapter: AdapterRow) -> list[str]:
    """The adapter is deleted: its unfinished jobs end, and their versions are archived. Returns the jobs' ids."""
    ended = []
    detail = f"The adapter {adapter.name!r} was deleted while its version was being made."
    for job in await jobs.unfinished(change.session, adapter.id):
        version = await change.session.get_one(VersionRow, job.version_id)
        row = ValidationRow(check="deleted", severity="info", message=detail)
        await versions.archive(change, adapter, version, [row])
        jobs.finish(change, job, StoredAnswer(404, {"detail": detail}))
        ended.append(job.id)
    return ended
