"""The table of engines that gateways of other hosts may use: a lease of each, which its supervisor renews.

The database's clock counts, not the hosts'. Knows no sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import DateTime, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import EngineReplicaRow

LEASE_SECONDS = 15.0
RENEWED_EVERY = 5.0
_KEPT_SECONDS = 3600.0
"""A row whose lease has run out is kept for so long, for people who look what has become of an engine."""


class Listing(msgspec.Struct, frozen=True):
    """One engine, as its supervisor tells of it; see EngineReplicaRow."""

    id: str
    group: str
    host: str
    endpoint: str
    public_key: str
    epoch: int
    protocol: int
    state: str


class Lease(msgspec.Struct, frozen=True):
    """seconds: for which it holds; below 0: since it ran out."""

    listing: Listing
    seconds: float


async def tell(database: Database, listing: Listing) -> None:
    """The engine is there for the next LEASE_SECONDS. Raises Unavailable."""

    async def work(change: Change) -> None:
        until = await _now(change.session) + timedelta(seconds=LEASE_SECONDS)
        await change.session.merge(EngineReplicaRow(**msgspec.structs.asdict(listing), lease_until=until))

    await database.write("engine", work)


async def withdraw(database: Database, id: str) -> None:
    """The engine is there no more. Raises Unavailable."""

    async def work(change: Change) -> None:
        await change.session.execute(delete(EngineReplicaRow).where(EngineReplicaRow.id == id))

    await database.write("engine", work)


async def forget_gone(database: Database) -> None:
    """Rows of engines that were killed some time ago: a new one may never have the same address. Raises Unavailable."""

    async def work(change: Change) -> None:
        since = await _now(change.session) - timedelta(seconds=_KEPT_SECONDS)
        await change.session.execute(delete(EngineReplicaRow).where(EngineReplicaRow.lease_until < since))

    await database.write("engine", work)


async def listed(database: Database, group: str) -> Sequence[Listing]:
    """The group's engines whose leases hold, by id. Raises Unavailable."""
    async with database.read() as session:
        query = select(EngineReplicaRow).where(
            EngineReplicaRow.group == group, EngineReplicaRow.lease_until > await _now(session)
        )
        rows = await session.scalars(query.order_by(EngineReplicaRow.id))
        return list(map(_listing, rows))


async def leases(database: Database) -> Sequence[Lease]:
    """Of all groups, those that have run out as well. Raises Unavailable."""
    async with database.read() as session:
        now = await _now(session)
        rows = await session.scalars(select(EngineReplicaRow).order_by(EngineReplicaRow.group, EngineReplicaRow.id))
        return [Lease(_listing(row), (_aware(row.lease_until) - now).total_seconds()) for row in rows]


def _listing(row: EngineReplicaRow) -> Listing:
    return Listing(**{name: getattr(row, name) for name in Listing.__struct_fields__})


async def _now(session: AsyncSession) -> datetime:
    now: datetime | None = await session.scalar(select(func.current_timestamp(type_=DateTime(timezone=True))))
    assert now is not None, "a database has a clock"
    return _aware(now)


def _aware(time: datetime) -> datetime:
    """SQLite's have no zone, and are UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
