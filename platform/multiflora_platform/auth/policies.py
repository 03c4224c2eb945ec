"""What a tenant may do and how much of it: plain data that every request carries with its principal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Literal

PriorityClass = Literal["high", "normal", "low"]
BudgetUnit = Literal["tokens", "money"]
BudgetPeriod = Literal["day", "month"]


@dataclass(frozen=True)
class Budget:
    """What a tenant may use up in a day or month of UTC. amount: tokens, or money in the server's currency."""

    unit: BudgetUnit
    period: BudgetPeriod
    amount: float

    @property
    def name(self) -> str:
        """As the fields of a tenant are called behind `budget_`."""
        return f"{self.unit}_per_{self.period}"


@dataclass(frozen=True)
class Policy:
    """A tenant's row as requests need it; the directory fills it."""

    # Shell patterns of adapter names, and of the base model's.
    allowed_adapters: tuple[str, ...] = ("*",)
    # None in these three: no limit.
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent_requests: int | None = None
    # Of all KV blocks, what the tenant may hold at the same time.
    kv_share: float = 1.0
    priority: PriorityClass = "normal"
    # Its cached prefixes are one with those of all other tenants that opted in.
    shared_prefixes: bool = False
    # All its keys are refused.
    disabled: bool = False
    budgets: tuple[Budget, ...] = ()

    @property
    def has_limits(self) -> bool:
        limits = (self.requests_per_minute, self.tokens_per_minute, self.max_concurrent_requests)
        return any(limit is not None for limit in limits)

    def allows(self, name: str) -> bool:
        return bool(self.allowed_adapters) and _compiled(self.allowed_adapters).match(name) is not None


@lru_cache(maxsize=1024)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """All in one: a list of 10,000 adapters asks for each of them."""
    return re.compile("|".join(map(translate, patterns)))


UNLIMITED = Policy()
