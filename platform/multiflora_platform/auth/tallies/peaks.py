"""The most that tenants had in a minute: requests, tokens, requests at once. Counted by minutes in memory, written when
the usage is, and summed over all servers; after an hour a day keeps its largest minute."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sqlalchemy import delete, func, select

from multiflora_platform.auth.account_answers import Peak
from multiflora_platform.auth.limits.limits import Claim, Limits, LimitsBehind
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.tallies.windows import Window, day_of, first_day, start_of
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import DailyPeakRow, MinuteUseRow
from multiflora_platform.storage.upserts import largest, latest, upsert

_MINUTE_SECONDS = 60
# Minutes that a server writes later, because the database was away, are not added to the others'.
_MINUTES_KEPT = 60


@dataclass
class _Use:
    """Of one tenant in one minute at one server; or, of all servers, the sum."""

    requests: int = 0
    tokens: int = 0
    # The most at any moment; the servers' moments may differ, so that a sum of it is never too small.
    concurrent: int = 0

    def plus(self, other: _Use) -> _Use:
        return _Use(self.requests + other.requests, self.tokens + other.tokens, self.concurrent + other.concurrent)

    def or_more(self, other: _Use) -> _Use:
        return _Use(
            max(self.requests, other.requests), max(self.tokens, other.tokens), max(self.concurrent, other.concurrent)
        )


class Peaks:
    """`began`, `used` and `ended` as requests go; what is not written yet is in what is read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Another for each start: an earlier process may have counted in this minute.
        self._server = secrets.token_hex(8)
        self._running: Counter[str] = Counter()
        # By (minute, tenant): this one and those that are not written to their ends.
        self._uses: dict[tuple[int, str], _Use] = {}
        # The minute in which those of more than an hour ago were last looked for.
        self._folded = 0
        self._lock = asyncio.Lock()

    def began(self, tenant: str) -> None:
        self._running[tenant] += 1
        use = self._use(tenant)
        use.requests += 1
        use.concurrent = max(use.concurrent, self._running[tenant])

    def used(self, tenant: str, tokens: int) -> None:
        self._use(tenant).tokens += tokens

    def ended(self, tenant: str) -> None:
        self._use(tenant)  # it ran in this minute, too
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]

    async def flush(self) -> None:
        """Raises Unavailable."""
        for tenant in self._running:
            self._use(tenant)
        async with self._lock:
            this, taken = _minute(), dict(self._uses)
            if not taken:
                return
            await self._database.write("system", lambda change: self._write(change, taken, this))
            self._folded = this
            for minute, tenant in taken:
                if minute < this:
                    del self._uses[minute, tenant]

    async def of(self, window: Window, tenant: str) -> Peak:
        """Of all servers. Writes nothing, so that it can be asked every few seconds. Raises Unavailable."""
        since = first_day(window, time.time())
        first = start_of(since) // _MINUTE_SECONDS
        minute, day = MinuteUseRow, DailyPeakRow
        minutes = select(minute.minute, minute.server, minute.requests, minute.tokens, minute.concurrent).where(
            minute.tenant == tenant, minute.minute >= first
        )
        days = select(func.max(day.requests), func.max(day.tokens), func.max(day.concurrent)).where(
            day.tenant == tenant, day.day >= since
        )
        async with self._lock:  # between writes: what is written to its end is read
            async with self._database.read() as session:
                # In this order: minutes that another server folds meanwhile are read twice, not never.
                uses = {(at, server): _Use(*use) for at, server, *use in await session.execute(minutes)}
                most = _Use(*(value or 0 for value in (await session.execute(days)).one()))
            own = ((at, use) for (at, owner), use in self._uses.items() if owner == tenant and at >= first)
            uses |= {(at, self._server): use for at, use in own}
        for use in _summed((at, tenant, use) for (at, _), use in uses.items()).values():
            most = most.or_more(use)
        return Peak(requests_per_minute=most.requests, tokens_per_minute=most.tokens, concurrent=most.concurrent)

    def _use(self, tenant: str) -> _Use:
        key = (_minute(), tenant)
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = _Use(concurrent=self._running[tenant])
        return use

    async def _write(self, change: Change, taken: dict[tuple[int, str], _Use], this: int) -> None:
        for (minute, tenant), use in sorted(taken.items(), key=lambda item: item[0]):
            key = {"minute": minute, "tenant": tenant, "server": self._server}
            await upsert(change.session, MinuteUseRow, key, asdict(use), latest)
        if this != self._folded:
            await _fold(change, this - _MINUTES_KEPT)


async def _fold(change: Change, before: int) -> None:
    """Minutes before this one become their days' largest."""
    row = MinuteUseRow
    columns = (row.minute, row.tenant, row.requests, row.tokens, row.concurrent)
    rows = await change.session.execute(delete(row).where(row.minute < before).returning(*columns))
    most: dict[tuple[str, str], _Use] = {}
    for (minute, tenant), use in _summed((at, tenant, _Use(*use)) for at, tenant, *use in rows).items():
        key = (day_of(minute * _MINUTE_SECONDS), tenant)
        most[key] = most.get(key, _Use()).or_more(use)
    for (day, tenant), use in sorted(most.items(), key=lambda item: item[0]):
        await upsert(change.session, DailyPeakRow, {"day": day, "tenant": tenant}, asdict(use), largest)


def _summed(uses: Iterable[tuple[int, str, _Use]]) -> dict[tuple[int, str], _Use]:
    """By minute and tenant, over the servers."""
    sums: dict[tuple[int, str], _Use] = {}
    for minute, tenant, use in uses:
        sums[minute, tenant] = sums.get((minute, tenant), _Use()).plus(use)
    return sums


def _minute() -> int:
    """Since 1970."""
    return int(time.time() // _MINUTE_SECONDS)


class _WatchedClaim(Claim):
    def __init__(self, claim: Claim, peaks: Peaks, tenant: str) -> None:
        self._claim = claim
        self._peaks = peaks
        self._tenant = tenant
        self._closed = False
        self._taken = 0
        peaks.began(tenant)

    async def prompt(self, count: int) -> None:
        await self._claim.prompt(count)
        self._peaks.used(self._tenant, count)
        self._taken += count

    def give_back(self) -> None:
        self._claim.give_back()
        self._peaks.used(self._tenant, -self._taken)
        self._taken = 0

    def generated(self, count: int) -> None:
        self._claim.generated(count)
        self._peaks.used(self._tenant, count)

    def close(self) -> None:
        self._claim.close()
        if not self._closed:
            self._closed = True
            self._peaks.ended(self._tenant)


class WatchedLimits(LimitsBehind):
    """Limits whose admitted requests are counted for the peaks; those of admins are not."""

    def __init__(self, peaks: Peaks, limits: Limits) -> None:
        super().__init__(limits)
        self._peaks = peaks

    async def admit(self, principal: Principal) -> Claim:
        claim = await self._limits.admit(principal)
        return claim if principal.tenant is None else _WatchedClaim(claim, self._peaks, principal.tenant)
