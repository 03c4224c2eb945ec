"""Batches as rows that runners hold: claimed under a lease, kept by heartbeats, ended, given back.

Each function works inside a transaction or a read that its caller began. A lease is the right to write a batch's row.
It ends by itself, so that a batch whose server was killed is resumed by the next one, behind the results that are safe;
what an earlier holder still answers, should it live, is never recorded, for its next write finds the lease lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from multiflora_platform.batches.result_parts import SavedParts
from multiflora_platform.batches.stored_files import StoredFile
from multiflora_platform.storage.busy_owners import has_places_left
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import BatchRow, StoredFileRow

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
LEASE = timedelta(seconds=30)
MAX_ATTEMPTS = 5

IsInReach = Callable[[str, str | None], bool]
"""Of a file, by its id and its digest."""


class BatchLost(Exception):
    """Another server works on the batch: leave everything as it is."""


@dataclass(frozen=True)
class ClaimedBatch:
    """A batch that this process holds, as `claim` found it."""

    id: str
    claim: str  # this claim's own token, which the lease names; every write of the runner checks it
    owner: str | None  # the tenant as which it asks; None: the administration
    endpoint: str
    status: str
    input_file_id: str
    input_digest: str | None
    expires_at: datetime
    saved: SavedParts
    attempts: int  # since a runner last got on with it, this one included


async def is_any_free(session: AsyncSession, now: datetime, is_in_reach: IsInReach) -> bool | None:
    """Whether `claim` would find one; None: all have ended, so that none becomes free by waiting."""
    if await session.scalar(select(BatchRow.id).where(BatchRow.status.in_(UNFINISHED)).limit(1)) is None:
        return None
    return await _next_free(session, now, is_in_reach) is not None


async def claim(change: Change, token: str, is_in_reach: IsInReach) -> ClaimedBatch | None:
    """The oldest batch that no runner holds, nor another one of its owner's, and whose input this server can read;
    None: there is none.

    One that no server can read is claimed when its window has ended, and fails then.
    """
    found = await _next_free(change.session, change.now, is_in_reach)
    if found is None:
        return None
    batch_id, digest = found
    row = await change.session.get_one(BatchRow, batch_id)
    row.lease_owner, row.lease_until = token, change.now + LEASE
    row.attempts += 1
    return ClaimedBatch(
        id=row.id,
        claim=token,
        owner=row.owner,
        endpoint=row.endpoint,
        status=row.status,
        input_file_id=row.input_file_id,
        input_digest=digest,
        expires_at=row.expires_at,
        saved=msgspec.convert(row.saved, SavedParts),
        attempts=row.attempts,
    )


async def begin(change: Change, claimed: ClaimedBatch, total: int) -> None:
    """Its input is sound and has so many requests. One that is being cancelled stays so. Raises BatchLost."""
    row = await _held(change, claimed)
    row.total = total
    if row.status == "validating":
        row.status, row.in_progress_at = "in_progress", change.now
        _record(change, row)


async def extend(change: Change, claimed: ClaimedBatch) -> BatchRow:
    """Still at work. Raises BatchLost."""
    row = await _held(change, claimed)
    row.lease_until = change.now + LEASE
    return row


async def save(change: Change, claimed: ClaimedBatch, saved: SavedParts, completed: int, failed: int) -> None:
    """Still at work, and what is answered is safe. Raises BatchLost."""
    row = await extend(change, claimed)
    if completed + failed > row.completed + row.failed:
        row.attempts = 1
    row.saved, row.completed, row.failed = msgspec.to_builtins(saved), completed, failed


async def finalize(change: Change, claimed: ClaimedBatch) -> None:
    """Nothing more is asked for it. Raises BatchLost."""
    row = await _held(change, claimed)
    if row.status == "in_progress":
        row.status, row.finalizing_at = "finalizing", change.now
        _record(change, row)


async def finish(
    change: Change, claimed: ClaimedBatch, state: str, files: dict[str, StoredFile], completed: int, failed: int
) -> None:
    """state: completed, cancelled or expired. files: by "output" and "error", those that have a line. Raises
    BatchLost."""
    row = await _held(change, claimed)
    for kind, file in files.items():
        name = f"{row.id}_{kind}.jsonl"
        add_file(change, file, owner=row.owner, name=name, purpose="batch_output")
        setattr(row, f"{kind}_file_id", file.id)
    row.completed, row.failed = completed, failed
    _end(change, row, state)


async def fail(change: Change, claimed: ClaimedBatch, errors: Sequence[dict[str, Any]]) -> None:
    """errors: as a batch shows them. Raises BatchLost."""
    row = await _held(change, claimed)
    row.errors = list(errors)
    _end(change, row, "failed")


async def release(change: Change, claimed: ClaimedBatch) -> None:
    """Given back unfinished: this was no attempt. Raises BatchLost."""
    row = await _held(change, claimed)
    row.lease_owner = row.lease_until = None
    row.attempts -= 1


async def end_leases(change: Change) -> None:
    """No other process uses this database: what a killed one held is free at once."""
    await change.session.execute(update(BatchRow).values(lease_owner=None, lease_until=None))


def add_file(change: Change, file: StoredFile, *, owner: str | None, name: str, purpose: str) -> StoredFileRow:
    row = StoredFileRow(
        id=file.id,
        owner=owner,
        name=name,
        purpose=purpose,
        size=file.size,
        digest=file.digest,
        created_at=change.now,
    )
    change.session.add(row)
    change.record("file.created", file.id, size=file.size)
    return row


async def _next_free(session: AsyncSession, now: datetime, is_in_reach: IsInReach) -> tuple[str, str | None] | None:
    """Its id, and its input's digest."""
    query = select(BatchRow.id, BatchRow.input_file_id, BatchRow.expires_at, StoredFileRow.digest)
    query = query.outerjoin(StoredFileRow, StoredFileRow.id == BatchRow.input_file_id)
    rows = await session.execute(query.where(_is_free(now)).order_by(BatchRow.created_at, BatchRow.id))
    return next(
        (
            (batch_id, digest)
            for batch_id, file_id, expires_at, digest in rows
            if expires_at <= now or is_in_reach(file_id, digest)
        ),
        None,
    )


def _is_free(now: datetime) -> ColumnElement[bool]:
    held = aliased(BatchRow)
    of_batches = select(held.owner).where(held.status.in_(UNFINISHED), held.lease_until >= now)
    unheld = BatchRow.status.in_(UNFINISHED) & or_(BatchRow.lease_until.is_(None), BatchRow.lease_until < now)
    return unheld & has_places_left(BatchRow.owner, of_batches, 1)


async def _held(change: Change, claimed: ClaimedBatch) -> BatchRow:
    row = await change.session.get_one(BatchRow, claimed.id)
    if row.lease_owner != claimed.claim:
        raise BatchLost(claimed.id)
    return row


def _end(change: Change, row: BatchRow, state: str) -> None:
    row.status, row.saved = state, {}
    setattr(row, f"{state}_at", change.now)
    row.lease_owner = row.lease_until = None
    _record(change, row)


def _record(change: Change, row: BatchRow) -> None:
    change.record(f"batch.{row.status}", row.id, batch=row.id)
