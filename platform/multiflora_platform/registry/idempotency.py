"""Idempotency keys: the first answer is kept with the change that made it and given to every repetition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.database import Change
from multiflora_platform.registry.errors import IdempotencyMismatch, InvalidRequest, VersionRejected
from multiflora_platform.registry.tables import IdempotencyRecord

KEPT = timedelta(days=7)


@dataclass(frozen=True)
class Repeatable:
    """A request that may come again. key None: it brought no Idempotency-Key. request_hash: of what it asks for."""

    key: str | None
    request_hash: str

    def __post_init__(self) -> None:
        if self.key is not None and not (0 < len(self.key) <= 255 and self.key.isprintable()):
            raise InvalidRequest("An Idempotency-Key has 1 to 255 printable characters.", pointer="Idempotency-Key")


@dataclass(frozen=True)
class Outcome:
    """status: 200 known, 201 made, 422 rejected. body: the version's view; rejected, VersionRejected's parts."""

    status: int
    body: dict[str, Any]

    def unwrapped(self) -> Outcome:
        """Itself; raises VersionRejected when that was the outcome."""
        if self.status == 422:
            raise VersionRejected(**self.body)
        return self


async def recall(session: AsyncSession, adapter_id: int, request: Repeatable) -> Outcome | None:
    """Raises IdempotencyMismatch when the key was used for something else."""
    if request.key is None:
        return None
    record = await session.get(IdempotencyRecord, (adapter_id, request.key))
    if record is None:
        return None
    if record.request_hash != request.request_hash:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used for another body on this adapter; use a new key.", pointer="Idempotency-Key"
        )
    return Outcome(record.status, record.response)


def remember(change: Change, adapter_id: int, request: Repeatable, outcome: Outcome) -> None:
    if request.key is not None:
        change.session.add(
            IdempotencyRecord(
                adapter_id=adapter_id,
                key=request.key,
                request_hash=request.request_hash,
                status=outcome.status,
                response=outcome.body,
                created_at=change.now,
            )
        )


async def forget_old(change: Change) -> None:
    await change.session.execute(delete(IdempotencyRecord).where(IdempotencyRecord.created_at < change.now - KEPT))
