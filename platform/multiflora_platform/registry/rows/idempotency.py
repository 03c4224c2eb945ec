"""The rules of an idempotency key's row: the first answer is kept in the transaction that made it, and repeated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.errors import AdapterNotFound, IdempotencyMismatch, JobCancelled, VersionRejected
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import IdempotencyRow
from multiflora_platform.web.problems import InsufficientStorage, InvalidRequest, Problem

KEPT = timedelta(hours=24)


@dataclass(frozen=True)
class Repeatable:
    """A request that may come again."""

    key: str | None  # the client's Idempotency-Key; None: it brought none
    request_hash: str  # of what it asks for; intake/submissions.py computes it

    def __post_init__(self) -> None:
        if self.key is not None and not (0 < len(self.key) <= 255 and self.key.isprintable()):
            raise InvalidRequest("An Idempotency-Key has 1 to 255 printable characters.", pointer="Idempotency-Key")


@dataclass(frozen=True)
class StoredAnswer:
    """status: 200 known, 201 made, 202 being made, 422 rejected; 404 the adapter was deleted, 409 cancelled,
    507 the disk is full.

    body: the version's view; of an error, the exception's parts.
    """

    status: int
    body: dict[str, Any]

    def unwrapped(self) -> StoredAnswer:
        """Itself; raises VersionRejected, AdapterNotFound or JobCancelled when that is the answer."""
        error = _ERRORS.get(self.status)
        if error is not None:
            raise error(**self.body)
        return self


_ERRORS: dict[int, type[Problem]] = {
    404: AdapterNotFound,
    409: JobCancelled,
    422: VersionRejected,
    507: InsufficientStorage,
}


@dataclass(frozen=True)
class Filed:
    """Where the answer to a request is: already known, or a job's. Exactly one of the two is there."""

    answer: StoredAnswer | None = None
    job_id: str | None = None
    joined: bool = False  # the job was made for another request, so that this one made no version


async def recall(session: AsyncSession, adapter_id: int, request: Repeatable) -> Filed | None:
    """Raises IdempotencyMismatch when the key was used for something else."""
    if request.key is None:
        return None
    record = await session.get(IdempotencyRow, (adapter_id, request.key))
    if record is None or record.created_at < datetime.now(UTC) - KEPT:
        return None
    if record.request_hash != request.request_hash:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used for another body on this adapter; use a new key.", pointer="Idempotency-Key"
        )
    if record.status is None or record.response is None:
        return Filed(job_id=record.job_id)
    return Filed(StoredAnswer(record.status, record.response))


async def remember(change: Change, adapter_id: int, request: Repeatable, filed: Filed) -> None:
    if request.key is not None:
        await change.session.merge(
            IdempotencyRow(
                adapter_id=adapter_id,
                key=request.key,
                request_hash=request.request_hash,
                job_id=filed.job_id,
                status=filed.answer.status if filed.answer else None,
                response=filed.answer.body if filed.answer else None,
                created_at=change.now,
            )
        )


async def forget_job(change: Change, job_id: str) -> None:
    """It failed for our own fault: a repetition may try again."""
    await change.session.execute(delete(IdempotencyRow).where(IdempotencyRow.job_id == job_id))


async def forget_old(change: Change) -> None:
    await change.session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < change.now - KEPT))
