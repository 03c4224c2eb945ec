"""Tenants, their keys, and what they used."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Double, ForeignKey, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base

ROLES = ("admin", "tenant")


class TenantRow(Base):
    """A group of keys that share limits, usage and a part of the cache. Written by auth/tenants.py."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    # Shell patterns of adapters' names, the base model's name, too.
    allowed_adapters: Mapped[list[str]] = mapped_column(default=lambda: ["*"])
    # None in any of these three: no limit.
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    max_concurrent_requests: Mapped[int | None]
    # Part of all KV blocks, 0 to 1.
    kv_share: Mapped[float] = mapped_column(Double, default=1.0)
    # high, normal or low.
    priority: Mapped[str] = mapped_column(String(8), default="normal")
    # Its cached prefixes are one with those of all other tenants that opted in.
    shared_prefixes: Mapped[bool] = mapped_column(default=False)
    # All its keys are refused.
    disabled: Mapped[bool] = mapped_column(default=False)
    # What it may use up in a day or month of UTC, in money or tokens; None: no such budget.
    budget_tokens_per_day: Mapped[int | None] = mapped_column(BigInteger)
    budget_tokens_per_month: Mapped[int | None] = mapped_column(BigInteger)
    budget_money_per_day: Mapped[float | None] = mapped_column(Double)
    budget_money_per_month: Mapped[float | None] = mapped_column(Double)
    # By budget, the last day or month in which a warning was told. Written by auth/budgets.py.
    budget_warned: Mapped[dict[str, Any]] = mapped_column(server_default="{}", default=dict)


class TenantLeaseRow(Base):
    """What is left of a tenant's limits, and what servers have taken of them; of PostgreSQL, which keeps it unlogged.
    Written by auth/limits/lease_table.py."""

    __tablename__ = "tenant_leases"

    tenant_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # Left for all servers; None without that limit.
    requests: Mapped[float | None] = mapped_column(Double)
    tokens: Mapped[float | None] = mapped_column(Double)
    # Unix seconds of the database's clock: up to when both are refilled.
    at: Mapped[float] = mapped_column(Double)
    # By server: the seats, requests and tokens that it holds, until when, and what it got last.
    held: Mapped[dict[str, Any]] = mapped_column(JSON().with_variant(JSONB(), "postgresql"))


class KeyRow(Base):
    """An API key, of which only the HMAC is kept. Written by auth/keys.py."""

    __tablename__ = "keys"
    __table_args__ = (CheckConstraint(f"role IN {ROLES}", name="role"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    # Hex HMAC-SHA256 of the key under the server's secret.
    hmac: Mapped[str] = mapped_column(String(64), unique=True)
    # The key's first characters, for people.
    prefix: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    # None: an admin key.
    tenant_id: Mapped[int | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    # Written once in a while, so up to a minute late.
    last_used_at: Mapped[datetime | None]
    # None: everything that the role may.
    scopes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    # None: never. A rotation sets it on the old key.
    expires_at: Mapped[datetime | None]
    # The id of the key that this one follows.
    rotated_from: Mapped[str | None] = mapped_column(String(32))


class ClosedSessionRow(Base):
    """Browsers' sessions that were closed before their end; kept until then. Written by auth/sessions.py."""

    __tablename__ = "closed_sessions"

    # A session's own, or one that all sessions of a sign-in at the provider, or of a person, have in common.
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    # Unix seconds, also below.
    ends_at: Mapped[int] = mapped_column(BigInteger)
    # Sessions whose token the provider issued later stay; None, of a server of an older release: until its end.
    issued_until: Mapped[int | None] = mapped_column(BigInteger)


class DailyRefusalRow(Base):
    """How many requests of a tenant were refused in one UTC day, by cause. Written by
    auth/tallies/refused_requests.py."""

    __tablename__ = "refusals"

    # As 2026-01-31.
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    # One of web/refusals.py.
    cause: Mapped[str] = mapped_column(String(16), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)


class MinuteUseRow(Base):
    """What one server had of a tenant in one minute of the last hour. Written, and folded into DailyPeakRow, by
    auth/tallies/peaks.py."""

    __tablename__ = "minute_uses"

    # Since 1970.
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    # Another for each start of a server.
    server: Mapped[str] = mapped_column(String(16), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)
    # The most at once.
    concurrent: Mapped[int] = mapped_column(BigInteger)


class DailyPeakRow(Base):
    """The most that a tenant had in a minute of one UTC day, of all servers: each column's own minute. Written by
    auth/tallies/peaks.py."""

    __tablename__ = "peaks"

    # As 2026-01-31.
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)
    concurrent: Mapped[int] = mapped_column(BigInteger)


class UsageColumns:
    """Sums of one UTC day, by what else a table keeps apart. The ledger (auth/usage.py) adds to them in intervals, not
    with each request."""

    # As 2026-01-31.
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    # "" for admins.
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    # "" for the base model.
    adapter: Mapped[str] = mapped_column(String(255), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    # Part of prompt_tokens.
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    # What prompts added to the prefix cache; 0 before releases that count it.
    cache_write_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    # Microseconds: the requests' part of the engine's steps.
    device_us: Mapped[int] = mapped_column(BigInteger)
    # Microseconds of the device, estimated: that cached tokens spared, and that tokens took which had been cached and
    # were evicted. 0 before releases that count them.
    saved_us: Mapped[int] = mapped_column(BigInteger, server_default="0")
    again_us: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # Tokens that contexts and marks held in the prefix cache, times the seconds that they did.
    stored_token_seconds: Mapped[int] = mapped_column(BigInteger, server_default="0")


class DailyUsageRow(UsageColumns, Base):
    """Of all keys together."""

    __tablename__ = "usage"


class KeyUsageRow(UsageColumns, Base):
    """The same by key. A table of its own, because servers of before write by three columns; what they and earlier
    releases counted is of no key here, or missing."""

    __tablename__ = "usage_by_key"

    # A key's id, a person's name behind `oidc:`, or `batches`; "" for what came with none, as contexts do.
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
