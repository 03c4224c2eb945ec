"""What the routes about tenants, keys and usage answer."""

from __future__ import annotations

from typing import Literal

import msgspec

from multiflora_platform.auth.policies import BudgetPeriod, BudgetUnit, PriorityClass
from multiflora_platform.auth.principals import Role
from multiflora_platform.auth.scopes import Scope
from multiflora_platform.prices import Money


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    allowed_adapters: list[str]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_concurrent_requests: int | None
    kv_share: float
    priority: PriorityClass
    shared_prefixes: bool
    disabled: bool
    budget_tokens_per_day: int | None
    budget_tokens_per_month: int | None
    budget_money_per_day: float | None
    budget_money_per_month: float | None
    created_at: str
    etag: str


class TenantPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Tenant]
    next_page_token: str | None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """prefix: the key's beginning. rotated_from: the id of the key that it follows."""

    id: str
    name: str
    role: Role
    tenant: str | None
    prefix: str
    scopes: list[Scope] | None
    rotated_from: str | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    etag: str


class NewlyMadeKey(Key, frozen=True, kw_only=True):
    """key: the secret itself, shown this once."""

    key: str


class KeyPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Key]
    next_page_token: str | None


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one group: the fields that it was not grouped by are absent. tenant None: admins. adapter None: the base. key:
    an API key's id, a person's name behind `oidc:`, `batches`, or None: no key's, as of contexts, or not counted by
    key. key_name: None of what is no API key.

    prompt_tokens in three parts: cached_tokens came from the prefix cache, cache_write_tokens were added to it,
    uncached_tokens were computed for the request alone. device_ms: the requests' part of the engine's steps.
    stored_token_hours: that contexts and marks held tokens in the prefix cache. money: absent where no prices are set.
    """

    day: str | msgspec.UnsetType = msgspec.UNSET
    tenant: str | msgspec.UnsetType | None = msgspec.UNSET
    adapter: str | msgspec.UnsetType | None = msgspec.UNSET
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    key_name: str | msgspec.UnsetType | None = msgspec.UNSET
    requests: int
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    uncached_tokens: int
    completion_tokens: int
    device_ms: float
    stored_token_hours: float
    money: Money | msgspec.UnsetType = msgspec.UNSET


class UsagePage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[UsageRow]
    next_page_token: str | None


class RefusalCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were refused, by cause: a limit that was reached, a budget that was used up, what the key or the
    tenant may not do or use (a model that there is not counts, too), a server whose queue was full."""

    requests: int = 0
    tokens: int = 0
    concurrent: int = 0
    budget: int = 0
    not_allowed: int = 0
    overloaded: int = 0


class TenantRefusals(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    refused: RefusalCounts


class RefusalPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[TenantRefusals]
    next_page_token: str | None


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a tenant had admitted in a minute, and at once, at all servers together. concurrent: a sum of what
    each server had at most in the same minute."""

    requests_per_minute: int
    tokens_per_minute: int
    concurrent: int


class LimitsNow(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's limits, what is left of its rates, and how many of its requests run; null without that limit.
    counted_by: all servers on the database together, or this one, which is the only one. peak, refused: of all servers,
    in the window."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_concurrent_requests: int | None
    requests_left: int | None
    tokens_left: int | None
    running: int | None
    counted_by: Literal["all servers", "this server"]
    peak: Peak
    refused: RefusalCounts


class BudgetUse(msgspec.Struct, frozen=True, kw_only=True):
    """amount, used: tokens, or money in `currency`; of all servers on the database. begins_anew_at: in UTC."""

    tenant: str
    unit: BudgetUnit
    period: BudgetPeriod
    amount: float
    used: float
    currency: str | None
    begins_anew_at: str


class BudgetPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[BudgetUse]
    next_page_token: str | None
