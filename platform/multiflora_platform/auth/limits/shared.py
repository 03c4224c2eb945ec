"""Limits that all servers on one PostgreSQL database count together. Knows principals and policies; not HTTP.

A tenant without limits never reaches the database. What servers hold they have from the table, and it lapses: a server
that dies, or is cut off, leaves its part to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from multiflora_platform.auth.limits.bucket import Clock
from multiflora_platform.auth.limits.holdings import Holdings
from multiflora_platform.auth.limits.lease_table import LeaseTable
from multiflora_platform.auth.limits.limits import Claim, Limits, Standing
from multiflora_platform.auth.principals import Principal
from multiflora_platform.web.problems import Unavailable

if TYPE_CHECKING:
    from multiflora_platform.storage.direct_connection import DirectConnection

_log = logging.getLogger(__name__)
# Between two looks at what the table has to be told: generated tokens are known to other servers after so long.
_TICK_SECONDS = 0.25


class _SharedClaim(Claim):
    """holdings: the tenant's; None: an admin's request, which has no limits."""

    def __init__(self, limits: SharedLimits, holdings: Holdings | None) -> None:
        self._limits = limits
        self._holdings = holdings
        self._closed = False
        self._taken = 0

    async def prompt(self, count: int) -> None:
        if self._holdings is None:
            return
        try:
            await self._holdings.take_prompt(count)
        finally:
            self._limits.look_at(self._holdings)
        self._taken += count

    def give_back(self) -> None:
        self.generated(-self._taken)
        self._taken = 0

    def generated(self, count: int) -> None:
        if self._holdings is not None:
            self._holdings.use_tokens(count)

    def close(self) -> None:
        if not self._closed and self._holdings is not None:
            self._holdings.leave()
            self._limits.look_at(self._holdings)
        self._closed = True


class SharedLimits(Limits):
    """`start` it; `close` gives back what is held."""

    def __init__(self, connection: DirectConnection, clock: Clock = time.monotonic) -> None:
        self._table = LeaseTable(connection)
        self._clock = clock
        # Another for each start: what an earlier process held lapses by itself.
        self._server = secrets.token_hex(8)
        self._holdings: dict[int, Holdings] = {}
        # Those that the table has to be told of, now or later.
        self._live: set[Holdings] = set()
        self._news = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def admit(self, principal: Principal) -> Claim:
        if principal.tenant_id is None:
            return _SharedClaim(self, None)
        holdings = self._of(principal, principal.tenant_id)
        try:
            await holdings.admit()
        finally:
            self.look_at(holdings)
        return _SharedClaim(self, holdings)

    def headers(self, principal: Principal) -> dict[str, str]:
        holdings = None if principal.tenant_id is None else self._holdings.get(principal.tenant_id)
        return {} if holdings is None else holdings.headers()

    async def standing(self, principal: Principal) -> Standing:
        assert principal.tenant_id is not None, "admins have no limits"
        return await self._table.standing(principal.tenant_id, principal.policy)

    def look_at(self, holdings: Holdings) -> None:
        """What it holds has changed: the keeper gives back at once what another server may wait for."""
        if holdings.is_idle:
            return
        is_first = not self._live
        self._live.add(holdings)
        if is_first or holdings.has_surplus:
            self._news.set()

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.gather(*(holdings.retire() for holdings in self._live), return_exceptions=True)

    def _of(self, principal: Principal, tenant: int) -> Holdings:
        holdings = self._holdings.get(tenant)
        if holdings is None:
            holdings = self._holdings[tenant] = Holdings(tenant, self._server, self._table, self._clock)
        holdings.follow(principal.policy)
        return holdings

    async def _keep(self) -> None:
        now = asyncio.get_running_loop().time
        is_away, next_look = False, now() + _TICK_SECONDS
        while True:
            await self._news_within(next_look - now())
            is_look_due = now() >= next_look
            if is_look_due:
                next_look = now() + _TICK_SECONDS
            due = [one for one in self._live if one.has_surplus or (is_look_due and one.is_due)]
            if due:
                is_away = await self._turn(due, is_away)
            self._live = {one for one in self._live if not one.is_idle}

    async def _news_within(self, seconds: float) -> None:
        """Waits for news, no longer than so many seconds while anything is held."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds) if self._live else None):
                await self._news.wait()
        self._news.clear()

    async def _turn(self, due: Iterable[Holdings], was_away: bool) -> bool:
        """Whether the database is away."""
        try:
            for holdings in due:
                await holdings.turn()
                while holdings.has_surplus:  # from requests that ended meanwhile
                    await holdings.turn()
        except Unavailable:
            if not was_away:
                _log.warning("the database is away: requests of tenants with limits are refused")
            return True
        except Exception:
            _log.exception("tenants' limits could not be counted; trying again")
            return was_away
        if was_away:
            _log.warning("the database is back: tenants' limits are counted again")
        return False
