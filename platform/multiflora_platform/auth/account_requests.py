"""The JSON bodies about tenants and keys, with their limits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType, field
from msgspec.structs import asdict

from multiflora_platform.auth.policies import PriorityClass
from multiflora_platform.auth.principals import Role
from multiflora_platform.auth.scopes import Scope
from multiflora_platform.storage.integers import LARGEST_NUMBER
from multiflora_platform.web.json_bodies import Body, Patch

Pattern = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
Patterns = Annotated[list[Pattern], Meta(max_length=256)]
Limit = Annotated[int, Meta(ge=1, le=LARGEST_NUMBER)]
Share = Annotated[float, Meta(gt=0, le=1)]
# Beyond 2**53 a JSON number is not exact everywhere.
TokenBudget = Annotated[int, Meta(ge=1, le=2**53)]
MoneyBudget = Annotated[float, Meta(gt=0, le=1e12)]


class NewTenant(Body, frozen=True):
    """allowed_adapters: shell patterns, `sql-*`; of the base model's name, too. kv_share: part of all KV blocks.
    budget_…: of tokens, or of money in the server's currency, in a day or month of UTC."""

    name: str
    allowed_adapters: Patterns = field(default_factory=lambda: ["*"])
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    max_concurrent_requests: Limit | None = None
    kv_share: Share = 1.0
    priority: PriorityClass = "normal"
    shared_prefixes: bool = False
    budget_tokens_per_day: TokenBudget | None = None
    budget_tokens_per_month: TokenBudget | None = None
    budget_money_per_day: MoneyBudget | None = None
    budget_money_per_month: MoneyBudget | None = None

    @property
    def fields(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "name"}


class TenantPatch(Patch, frozen=True):
    """A field that is absent stays; null lifts a limit. disabled: all its keys are refused."""

    allowed_adapters: Patterns | UnsetType = UNSET
    requests_per_minute: Limit | UnsetType | None = UNSET
    tokens_per_minute: Limit | UnsetType | None = UNSET
    max_concurrent_requests: Limit | UnsetType | None = UNSET
    kv_share: Share | UnsetType = UNSET
    priority: PriorityClass | UnsetType = UNSET
    shared_prefixes: bool | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    budget_tokens_per_day: TokenBudget | UnsetType | None = UNSET
    budget_tokens_per_month: TokenBudget | UnsetType | None = UNSET
    budget_money_per_day: MoneyBudget | UnsetType | None = UNSET
    budget_money_per_month: MoneyBudget | UnsetType | None = UNSET


class NewKey(Body, frozen=True):
    """scopes: null is everything that the role may. expires_at: RFC 3339; null never."""

    name: str
    role: Role
    tenant: str | None = None
    scopes: Annotated[list[Scope], Meta(min_length=1)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class KeyRotation(Body, frozen=True):
    """overlap_seconds: how long the old key goes on working."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = 3600
