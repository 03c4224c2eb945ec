"""Files and batches as rows: made, found by those who may see them, changed. Knows neither bytes nor HTTP."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.auth.principals import Principal
from multiflora_platform.batches import claims
from multiflora_platform.batches.claims import UNFINISHED
from multiflora_platform.batches.result_parts import ResultPart, SavedParts
from multiflora_platform.batches.stored_files import StoredFile
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import BatchRow, StoredFileRow

_WINDOW = timedelta(hours=24)
_FILES = select(StoredFileRow.id, StoredFileRow.digest)
Row = TypeVar("Row", StoredFileRow, BatchRow)
# By the time when they were made.
Order = Literal["asc", "desc"]


class Ledger:
    """A tenant sees its own files and batches, an admin those of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_file(self, principal: Principal, file: StoredFile, name: str, purpose: str) -> StoredFileRow:
        async def work(change: Change) -> StoredFileRow:
            return claims.add_file(change, file, owner=principal.tenant, name=name[:255], purpose=purpose)

        return await self._database.write(principal.actor, work)

    async def remove_file(self, principal: Principal, file_id: str) -> None:
        async def work(change: Change) -> None:
            row = await change.session.get(StoredFileRow, file_id)
            if row is not None:
                await change.session.delete(row)
                change.record("file.deleted", file_id)

        await self._database.write(principal.actor, work)

    async def add_batch(self, principal: Principal, endpoint: str, input_file: str, note: dict[str, str]) -> BatchRow:
        async def work(change: Change) -> BatchRow:
            row = BatchRow(
                id=f"batch_{uuid.uuid4().hex}",
                owner=principal.tenant,
                endpoint=endpoint,
                input_file_id=input_file,
                status="validating",
                note=note,
                errors=[],
                total=0,
                completed=0,
                failed=0,
                created_at=change.now,
                expires_at=change.now + _WINDOW,
            )
            change.session.add(row)
            change.record("batch.created", row.id, endpoint=endpoint, batch=row.id)
            return row

        return await self._database.write(principal.actor, work)

    async def file(self, principal: Principal, file_id: str) -> StoredFileRow | None:
        return _visible(principal, await self._get(StoredFileRow, file_id))

    async def batch(self, principal: Principal, batch_id: str) -> BatchRow | None:
        return _visible(principal, await self._get(BatchRow, batch_id))

    async def files(
        self, principal: Principal, purpose: str | None, after: str | None, limit: int, order: Order
    ) -> list[StoredFileRow]:
        query = select(StoredFileRow).limit(limit)
        if purpose is not None:
            query = query.where(StoredFileRow.purpose == purpose)
        return await self._page(principal, StoredFileRow, query, after, order)

    async def batches(self, principal: Principal, after: str | None, limit: int) -> list[BatchRow]:
        """Newest first."""
        return await self._page(principal, BatchRow, select(BatchRow).limit(limit), after, "desc")

    async def is_used(self, file_id: str) -> bool:
        """Whether an unfinished batch reads the file."""
        query = select(BatchRow.id).where(BatchRow.input_file_id == file_id, BatchRow.status.in_(UNFINISHED)).limit(1)
        async with self._database.read() as session:
            return await session.scalar(query) is not None

    async def cancel(self, actor: str, batch_id: str) -> None:
        """Its runner ends it; one that is ending already goes on."""

        async def work(change: Change) -> None:
            row = await change.session.get_one(BatchRow, batch_id)
            if row.status in ("validating", "in_progress"):
                row.status, row.cancelling_at = "cancelling", change.now
                change.record("batch.cancelling", batch_id, batch=batch_id)

        await self._database.write(actor, work)

    async def recorded(self) -> tuple[set[tuple[str, str | None]], list[ResultPart]]:
        """(files by id and digest, parts of results of all batches that run)."""
        async with self._database.read() as session:
            files = {(file_id, digest) for file_id, digest in await session.execute(_FILES)}
            saved = await session.scalars(select(BatchRow.saved).where(BatchRow.status.in_(UNFINISHED)))
            rows = [msgspec.convert(row, SavedParts) for row in saved]
        return files, [part for row in rows for part in (*row.output, *row.error)]

    async def _get(self, kind: type[Row], key: str) -> Row | None:
        async with self._database.read() as session:
            return await session.get(kind, key)

    async def _page(
        self, principal: Principal, kind: type[Row], query: Select[Any], after: str | None, order: Order
    ) -> list[Row]:
        place = (kind.created_at, kind.id)
        query = query.order_by(*(place if order == "asc" else [column.desc() for column in place]))
        if not principal.is_admin:
            query = query.where(kind.owner == principal.tenant)
        async with self._database.read() as session:
            if after is not None:
                query = await _behind(session, kind, query, after, order)
            return list(await session.scalars(query))


async def _behind(session: AsyncSession, kind: type[Row], query: Select[Any], after: str, order: Order) -> Select[Any]:
    """What comes after that row; after an unknown one, nothing."""
    last = await session.get(kind, after)
    if last is None:
        return query.where(kind.id.is_(None))
    beyond: Callable[[Any, Any], Any] = operator.gt if order == "asc" else operator.lt
    same_time = kind.created_at == last.created_at
    return query.where(beyond(kind.created_at, last.created_at) | (same_time & beyond(kind.id, last.id)))


def _visible(principal: Principal, row: Row | None) -> Row | None:
    return row if row is not None and (principal.is_admin or row.owner == principal.tenant) else None
