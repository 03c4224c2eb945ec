"""How many requests of tenants were refused, by day and cause: counted in memory, written when the usage is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from sqlalchemy import func, select

from multiflora_platform.auth.account_answers import RefusalCounts
from multiflora_platform.auth.tallies.windows import Window, day_of, first_day
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import DailyRefusalRow
from multiflora_platform.storage.upserts import added, upsert
from multiflora_platform.web.refusals import RefusalCause

_Row = tuple[str, str, RefusalCause]


class RefusedRequests:
    """`count` each; what is not written yet is in what is read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Counted but not written, by (day, tenant, cause).
        self._pending: Counter[_Row] = Counter()
        self._lock = asyncio.Lock()

    def count(self, tenant: str, cause: RefusalCause) -> None:
        self._pending[day_of(time.time()), tenant, cause] += 1

    async def flush(self) -> None:
        """Raises Unavailable."""
        async with self._lock:
            taken, self._pending = self._pending, Counter()
            if not taken:
                return
            try:
                await self._database.write("system", lambda change: _write(change, taken))
            except BaseException:
                self._pending.update(taken)
                raise

    async def of(self, window: Window, tenant: str | None = None) -> dict[str, RefusalCounts]:
        """By tenant, of all servers; those that were refused nothing are absent. tenant: only this one's. Writes
        nothing, so that it can be asked every few seconds. Raises Unavailable."""
        since, row = first_day(window, time.time()), DailyRefusalRow
        query = (
            select(row.tenant, row.cause, func.sum(row.count)).where(row.day >= since).group_by(row.tenant, row.cause)
        )
        if tenant is not None:
            query = query.where(row.tenant == tenant)
        found: dict[str, Counter[str]] = {}
        async with self._lock:  # between writes: what is being written is neither pending nor read
            async with self._database.read() as session:
                for owner, cause, count in await session.execute(query):
                    found.setdefault(owner, Counter())[cause] += int(count)
            for (day, owner, cause), count in self._pending.items():
                if day >= since and tenant in (None, owner):
                    found.setdefault(owner, Counter())[cause] += count
        return {owner: RefusalCounts(**causes) for owner, causes in found.items()}


async def _write(change: Change, taken: Counter[_Row]) -> None:
    for (day, tenant, cause), count in sorted(taken.items()):
        key = {"day": day, "tenant": tenant, "cause": cause}
        await upsert(change.session, DailyRefusalRow, key, {"count": count}, added)
