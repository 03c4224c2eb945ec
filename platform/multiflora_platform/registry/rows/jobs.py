"""The rules of a job's row: queued, claimed, kept alive by heartbeats, finished, shown. Does not know what a job does.

A lease is the right to change a job's version. It ends by itself, so that a killed process loses nothing: the next
worker takes the job over, and the earlier holder, should it still live, finds out at its next write.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from multiflora_platform.registry.errors import JobNotFound
from multiflora_platform.registry.rows.idempotency import StoredAnswer
from multiflora_platform.storage.busy_owners import has_places_left
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import AdapterRow, JobRow, VersionRow
from multiflora_platform.web.etags import tagged

LEASE = timedelta(seconds=30)
MAX_ATTEMPTS = 5
AT_ONCE_OF_AN_OWNER = 4
"""On all servers together: slow sources of one owner's imports leave room for others' uploads."""
_FIRST_PAUSE = timedelta(seconds=1)
_LONGEST_PAUSE = timedelta(seconds=60)
UNFINISHED = ("queued", "running")

HasFiles = Callable[[str], bool]
"""Of a job, by its id."""


class LeaseLost(Exception):
    """Another process works on the job, or it was cancelled: leave everything as it is."""


@dataclass(frozen=True)
class ClaimedJob:
    """A job that this process holds, as `claim` found it: what to make, and for which client."""

    id: str
    owner: str  # the runner that holds the lease; every write of the worker checks it
    adapter_id: int
    adapter: str  # the adapter's name
    version_id: int  # the row to fill; the client's request made it
    number: int  # that version's, as clients know it
    source: str  # "upload", or the address to fetch from
    promote: bool  # whether the default alias moves to the version; a later equal request may have set it
    actor: str  # the client that asked, as the audit names it
    attempts: int  # this one included

    @property
    def is_last_attempt(self) -> bool:
        return self.attempts >= MAX_ATTEMPTS


def new_id() -> str:
    return f"job_{secrets.token_hex(8)}"


def create(change: Change, job_id: str, version: VersionRow, promote: bool) -> JobRow:
    job = JobRow(
        id=job_id,
        adapter_id=version.adapter_id,
        version_id=version.id,
        state="queued",
        promote=promote,
        actor=change.actor,
        attempts=0,
        done=0,
        run_after=change.now,
        created_at=change.now,
        updated_at=change.now,
    )
    change.session.add(job)
    return job


def _has_all(job_id: str) -> bool:
    return True


def _due(now: datetime, held: Collection[str]) -> ColumnElement[bool]:
    ended = or_(JobRow.lease_until.is_(None), JobRow.lease_until < now)
    unheld = or_(and_(JobRow.state == "queued", JobRow.run_after <= now), and_(JobRow.state == "running", ended))
    return and_(unheld, JobRow.id.not_in(held))


async def is_any_due(session: AsyncSession, held: Collection[str], has_files: HasFiles = _has_all) -> bool | None:
    """Whether `claim` would find one; None: no job is unfinished, so that none becomes due by waiting."""
    if await session.scalar(select(func.count()).where(JobRow.state.in_(UNFINISHED))) == 0:
        return None
    return await _next_due(session, datetime.now(UTC), held, has_files) is not None


async def _next_due(session: AsyncSession, now: datetime, held: Collection[str], has_files: HasFiles) -> str | None:
    query = select(JobRow.id, VersionRow.state).join(VersionRow, VersionRow.id == JobRow.version_id)
    query = query.join(AdapterRow, AdapterRow.id == JobRow.adapter_id)
    running, adapter = aliased(JobRow), aliased(AdapterRow)
    of_jobs = select(adapter.owner).join(running, running.adapter_id == adapter.id)
    of_jobs = of_jobs.where(running.state == "running", running.lease_until >= now)
    may_run = and_(_due(now, held), has_places_left(AdapterRow.owner, of_jobs, AT_ONCE_OF_AN_OWNER))
    due = await session.execute(query.where(may_run).order_by(JobRow.run_after, JobRow.created_at))
    return next((id for id, state in due if state != "validating" or has_files(id)), None)


async def claim(change: Change, owner: str, held: Collection[str], has_files: HasFiles = _has_all) -> ClaimedJob | None:
    """The job that has waited longest, that no worker holds, and whose owner has places left; None: there is none.

    held: ids of what the owner works on: of a process that stood still, a lease may have ended, which it extends.
    has_files: whether a job's files, once uploaded or fetched, are within reach; the others are for other hosts.
    """
    id = await _next_due(change.session, change.now, held, has_files)
    job = None if id is None else await change.session.get(JobRow, id)
    if job is None:
        return None
    version = await change.session.get_one(VersionRow, job.version_id)
    adapter = await change.session.get_one(AdapterRow, job.adapter_id)
    job.state, job.lease_owner, job.lease_until = "running", owner, change.now + LEASE
    job.attempts += 1
    job.updated_at = change.now
    return ClaimedJob(
        job.id,
        owner,
        adapter.id,
        adapter.name,
        version.id,
        version.number,
        version.source,
        job.promote,
        job.actor,
        job.attempts,
    )


async def require_lease(change: Change, claimed: ClaimedJob) -> JobRow:
    """The row; every change that a worker makes starts with this. Raises LeaseLost."""
    job = await change.session.get_one(JobRow, claimed.id)
    if job.state != "running" or job.lease_owner != claimed.owner:
        raise LeaseLost(claimed.id)
    return job


async def heartbeat(change: Change, claimed: ClaimedJob, done: int, total: int | None) -> None:
    """Still at work: the lease is extended and the progress seen. Raises LeaseLost."""
    job = await require_lease(change, claimed)
    job.lease_until = change.now + LEASE
    if (job.done, job.total) != (done, total):
        job.done, job.total, job.updated_at = done, total, change.now


def finish(change: Change, job: JobRow, answer: StoredAnswer) -> None:
    """succeeded, failed or cancelled, as the answer's status says; kept for the request that waits for the job."""
    job.state = "succeeded" if answer.status < 400 else "cancelled" if answer.status == 409 else "failed"
    job.error = answer.body["detail"][:2000] if answer.status >= 400 else None
    job.outcome = {"status": answer.status, "body": answer.body}
    job.lease_owner = job.lease_until = None
    job.updated_at = change.now


def postpone(change: Change, job: JobRow, error: str) -> None:
    """Try again after a pause that doubles with each attempt."""
    pause = min(_FIRST_PAUSE * 2 ** (job.attempts - 1), _LONGEST_PAUSE)
    job.state, job.error, job.run_after = "queued", error[:2000], change.now + pause
    job.lease_owner = job.lease_until = None
    job.updated_at = change.now


def release(change: Change, job: JobRow) -> None:
    """Given back unfinished by a process that ends in order: this was no attempt."""
    job.state, job.attempts = "queued", job.attempts - 1
    job.lease_owner = job.lease_until = None
    job.updated_at = change.now


async def end_leases(change: Change, has_files: HasFiles) -> None:
    """No other process of this data folder lives: what they claimed is free at once. Files of what runs are where it
    runs: jobs of servers elsewhere stay theirs."""
    for job in await change.session.scalars(select(JobRow).where(JobRow.state == "running")):
        if has_files(job.id):
            job.lease_until = change.now


async def require(session: AsyncSession, job_id: str) -> JobRow:
    job = await session.get(JobRow, job_id[:32])
    if job is None:
        raise JobNotFound(f"There is no job {job_id[:40]!r}.")
    return job


async def unfinished(session: AsyncSession, adapter_id: int) -> list[JobRow]:
    """The jobs that make versions of this adapter."""
    return list(
        await session.scalars(select(JobRow).where(JobRow.adapter_id == adapter_id, JobRow.state.in_(UNFINISHED)))
    )


async def unfinished_ids(session: AsyncSession) -> list[str]:
    """The jobs that make versions of any adapter."""
    return list(await session.scalars(select(JobRow.id).where(JobRow.state.in_(UNFINISHED))))


async def ended_ids(session: AsyncSession, job_ids: Sequence[str]) -> list[str]:
    """Those of the jobs that have ended; a job that does not exist has not."""
    query = select(JobRow.id).where(JobRow.id.in_(job_ids), JobRow.state.not_in(UNFINISHED))
    return list(await session.scalars(query))


async def making(session: AsyncSession, adapter_id: int, digest: str, base_digest: str) -> JobRow | None:
    """The job that makes a version of just this content."""
    query = (
        select(JobRow)
        .join(VersionRow, VersionRow.id == JobRow.version_id)
        .where(JobRow.adapter_id == adapter_id, JobRow.state.in_(UNFINISHED))
        .where(VersionRow.digest == digest, VersionRow.base_digest == base_digest)
    )
    return (await session.scalars(query.limit(1))).first()


async def page(
    session: AsyncSession,
    after: tuple[datetime, str] | None,
    limit: int,
    state: str | None,
    adapter_ids: Sequence[int] | None,
) -> list[JobRow]:
    """Newest first. after: (created_at, id) of the last one seen. adapter_ids: of these only; None: of all."""
    query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)
    if after is not None:
        at, job_id = after
        query = query.where(or_(JobRow.created_at < at, and_(JobRow.created_at == at, JobRow.id < job_id)))
    if state is not None:
        query = query.where(JobRow.state == state)
    if adapter_ids is not None:
        query = query.where(JobRow.adapter_id.in_(adapter_ids))
    return list(await session.scalars(query))


async def views(session: AsyncSession, rows: Sequence[JobRow]) -> list[dict[str, Any]]:
    query = (
        select(VersionRow, AdapterRow.name)
        .join(AdapterRow, AdapterRow.id == VersionRow.adapter_id)
        .where(VersionRow.id.in_([row.version_id for row in rows]))
    )
    made = {version.id: (version, adapter) for version, adapter in await session.execute(query)}
    return [_view(row, *made[row.version_id]) for row in rows]


def _view(row: JobRow, version: VersionRow, adapter: str) -> dict[str, Any]:
    view = {
        "id": row.id,
        "kind": "import",
        "adapter": adapter,
        "version": version.number,
        "state": row.state,
        "version_state": version.state,
        "source": version.source,
        "progress": {"done_bytes": row.done, "total_bytes": row.total},
        "attempts": row.attempts,
        "next_attempt_at": row.run_after.isoformat() if row.state == "queued" and row.attempts else None,
        "error": row.error,
        "created_by": row.actor,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
    }
    return tagged(view)
