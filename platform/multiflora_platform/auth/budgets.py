"""Budgets: what tenants may use up in a day or month, against what all servers have counted. Knows no routes.

Requests that run are never ended for a budget: it is asked before a request is admitted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from multiflora_platform.auth.account_answers import BudgetUse
from multiflora_platform.auth.directory import budgets_of
from multiflora_platform.auth.limits.limits import Claim, Limits, LimitsBehind
from multiflora_platform.auth.policies import Budget, BudgetPeriod
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.usage import Counts, UsageLedger
from multiflora_platform.prices import Prices
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import TenantRow
from multiflora_platform.web.problems import Unavailable
from multiflora_platform.web.refusals import BudgetExceeded

_log = logging.getLogger(__name__)
WARNING_SHARE = 0.8
WARNING_EVENT = "tenant.budget_warning"
_ACTOR = "system/budget"
# Other servers' counts are read again after so long; while the database is away, after longer.
_FRESH_SECONDS = 1.0
_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class _Written:
    """Of one tenant, since the month's beginning, as the database had it. at: monotonic seconds."""

    month: str
    days: dict[str, Counts]
    # The ledger's, at that moment.
    writes: int
    at: float


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Budgets:
    """`check` each request; `look` after counts were written."""

    def __init__(
        self, database: Database, ledger: UsageLedger, prices: Prices | None, now: Callable[[], datetime] = _utc_now
    ) -> None:
        """prices: None where nothing is told in money: budgets of money are not used up then."""
        self._database = database
        self._ledger = ledger
        self._prices = prices
        self._now = now
        self._written: dict[str, _Written] = {}
        self._loading = asyncio.Lock()
        self._away_until = 0.0
        # Of the tenants that have sent requests under budgets.
        self._budgets: dict[str, tuple[Budget, ...]] = {}
        # By tenant and budget's name: of which one, and in which day or month, this server has told, or found that
        # another one has.
        self._warned: dict[tuple[str, str], tuple[Budget, str]] = {}
        ledger.after_write.append(self.look)

    async def check(self, principal: Principal) -> None:
        """Raises BudgetExceeded; Unavailable where nothing is known of the tenant yet and the database is away."""
        budgets, tenant = principal.policy.budgets, principal.tenant
        if not budgets or tenant is None:
            return
        self._budgets[tenant] = budgets
        for use in await self._uses(tenant, budgets):
            if use.used >= use.amount:
                raise self._exceeded(use)

    async def look(self, tenants: Collection[str]) -> None:
        """Warns of budgets that are nearly used up. Raises Unavailable."""
        for tenant in tenants:
            if tenant in self._budgets:
                await self._uses(tenant, self._budgets[tenant])

    async def uses(self, tenant: str | None = None) -> list[BudgetUse]:
        """By tenant; tenant: only this one's. Raises Unavailable."""
        query = select(TenantRow).order_by(TenantRow.name)
        if tenant is not None:
            query = query.where(TenantRow.name == tenant)
        async with self._database.read() as session:
            found = {row.name: budgets_of(row) for row in await session.scalars(query)}
        return [use for name, budgets in found.items() if budgets for use in await self._uses(name, budgets)]

    async def _uses(self, tenant: str, budgets: Iterable[Budget]) -> list[BudgetUse]:
        now = self._now()
        written = await self._written_of(tenant, now.strftime("%Y-%m"))
        found = []
        for budget in budgets:
            period = _period(budget.period, now)
            used = self._used(tenant, budget, written, period)
            if used >= WARNING_SHARE * budget.amount:
                self._warn(tenant, budget, period, used)
            found.append(
                BudgetUse(
                    tenant=tenant,
                    unit=budget.unit,
                    period=budget.period,
                    amount=budget.amount,
                    used=used,
                    currency=self._prices.currency if self._prices and budget.unit == "money" else None,
                    begins_anew_at=_end(budget.period, now).isoformat(),
                )
            )
        return found

    def _used(self, tenant: str, budget: Budget, written: _Written, period: str) -> float:
        """period: a day's or month's beginning of all days that are in it."""
        counted = [*written.days.items(), *self._ledger.unwritten(tenant)]
        return sum(self._amount(budget, counts) for day, counts in counted if day.startswith(period))

    def _amount(self, budget: Budget, counts: Counts) -> float:
        if budget.unit == "tokens":
            return counts.prompt_tokens + counts.completion_tokens
        if self._prices is None:
            return 0.0
        return self._prices.cost(counts.device_us / 1e6, counts.cached_tokens, counts.stored_token_seconds)

    async def _written_of(self, tenant: str, month: str) -> _Written:
        known = self._written.get(tenant)
        if known is not None and (self._is_fresh(known, month) or self._loading.locked()):
            return known
        async with self._loading:
            known = self._written.get(tenant)
            if known is not None and self._is_fresh(known, month):
                return known
            try:
                writes, days = await self._ledger.written(tenant, month)
            except Unavailable:
                if known is None:
                    raise
                # What is known, and what is counted here meanwhile, goes on to be counted.
                self._away_until = time.monotonic() + _AGAIN_SECONDS
                return known
            loaded = self._written[tenant] = _Written(month, days, writes, time.monotonic())
            return loaded

    def _is_fresh(self, known: _Written, month: str) -> bool:
        if known.writes != self._ledger.writes:
            return False  # counts have gone from here to the database
        now = time.monotonic()
        return now < self._away_until or (known.month == month and now - known.at < _FRESH_SECONDS)

    def _exceeded(self, use: BudgetUse) -> BudgetExceeded:
        shown = f"{use.amount:,.0f} tokens" if use.unit == "tokens" else f"{use.amount:,.2f} {use.currency}"
        anew = datetime.fromisoformat(use.begins_anew_at)
        begins = f"it begins anew at {anew:%Y-%m-%dT%H:%M:%SZ}"
        detail = f"The tenant's budget of {shown} per {use.period} is used up; {begins}."
        return BudgetExceeded("budget", detail, (anew - self._now()).total_seconds())

    def _warn(self, tenant: str, budget: Budget, period: str, used: float) -> None:
        if self._warned.get((tenant, budget.name)) != (budget, period):
            self._warned[tenant, budget.name] = budget, period
            self._database.begin(self._tell(tenant, budget, period, used))

    async def _tell(self, tenant: str, budget: Budget, period: str, used: float) -> None:
        """Once in a period, whichever server finds it first."""

        async def work(change: Change) -> None:
            row = await change.session.scalar(select(TenantRow).where(TenantRow.name == tenant))
            if row is None or row.budget_warned.get(budget.name) == period:
                return
            row.budget_warned = {**row.budget_warned, budget.name: period}
            amount = budget.amount
            change.tell(WARNING_EVENT, tenant=tenant, budget=budget.name, period=period, amount=amount, used=used)

        try:
            await self._database.write(_ACTOR, work)
        except Exception as error:
            self._warned.pop((tenant, budget.name), None)
            _log.warning("a budget's warning could not be told, and will be with the next request: %s", error)


class BudgetedLimits(LimitsBehind):
    """A tenant's budgets, and then its limits: a request that the budget refuses takes nothing of them."""

    def __init__(self, budgets: Budgets, limits: Limits) -> None:
        super().__init__(limits)
        self._budgets = budgets

    async def admit(self, principal: Principal) -> Claim:
        await self._budgets.check(principal)
        return await self._limits.admit(principal)


def _period(period: BudgetPeriod, now: datetime) -> str:
    return f"{now:%Y-%m-%d}" if period == "day" else f"{now:%Y-%m}"


def _end(period: BudgetPeriod, now: datetime) -> datetime:
    """When the next one begins."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight + timedelta(days=1)
    return (midnight.replace(day=1) + timedelta(days=31)).replace(day=1)
