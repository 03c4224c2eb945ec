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


async def listed(database: Database, group: str) -> Sequence[Listing]:
    """The group's engines whose leases hold, by id. Raises Unavailable."""
    async with database.read() as session:
        query = select(EngineReplicaRow).where(
            EngineReplicaRow.group == group, EngineReplicaRow.lease_until > await _now(session)
        )
        rows = await session.scalars(query.order_by(EngineReplicaRow.id))
        return [Listing(**{name: getattr(row, name) for name in Listing.__struct_fields__}) for row in rows]


async def _now(session: AsyncSession) -> datetime:
    now: datetime | None = await session.scalar(select(func.current_timestamp(type_=DateTime(timezone=True))))
    assert now is not None, "a database has a clock"
    return now.replace(tzinfo=UTC) if now.tzinfo is None else now
