"""The principal of each key and of each tenant, in memory: swapped whole after each commit that changes one."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.auth.policies import UNLIMITED, Budget, BudgetPeriod, BudgetUnit, Policy
from multiflora_platform.auth.principals import PERSON_PREFIX, Person, Principal
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import KeyRow, TenantRow


@dataclass(frozen=True)
class DirectoryEntry:
    """One key that is good, with all that a request needs to know of it."""

    # As the database keeps it; compared once more in constant time.
    hmac: str
    principal: Principal
    # Unix seconds; None: never.
    expires_at: float | None = None


@dataclass(frozen=True)
class _Known:
    """One state of the database."""

    # By HMAC.
    keys: Mapping[str, DirectoryEntry]
    # Those of the tenants themselves, by row; people are signed in as them.
    tenants: Mapping[int, Principal]


class Directory:
    """`reload` it at the start and after others' changes, `follow` each of one's own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Replaced, never changed: a request that reads meanwhile sees one state or the other.
        self._known = _Known({}, {})
        # Keys of the settings, which no database knows; the key store fills it at its start.
        self.configured: dict[str, DirectoryEntry] = {}

    @property
    def has_admin(self) -> bool:
        return any(entry.principal.is_admin for entry in self._known.keys.values())

    def find(self, digest: str) -> Principal | None:
        """digest: the HMAC of a key."""
        entry = self._known.keys.get(digest)
        if entry is None or not hmac.compare_digest(entry.hmac, digest):
            return None
        if entry.expires_at is not None and time.time() >= entry.expires_at:
            return None
        return entry.principal

    def of_person(self, person: Person) -> Principal | None:
        """None: the tenant is gone."""
        key_id = f"{PERSON_PREFIX}{person.name}"
        if person.tenant_id is None:
            return Principal("admin", None, key_id)
        tenant = self._known.tenants.get(person.tenant_id)
        return None if tenant is None else replace(tenant, key_id=key_id)

    def principals(self) -> Iterator[Principal]:
        """Of every key, valid or not, and of every tenant."""
        entries = (*self.configured.values(), *self._known.keys.values())
        return chain((entry.principal for entry in entries), self._known.tenants.values())

    def of_tenant(self, tenant: str, *, needs_key: bool) -> Principal | None:
        """The principal under which the server works for a tenant; None when it is disabled, or, with needs_key, when
        no key of the tenant's is valid."""
        now = time.time()
        if not needs_key:
            present = (one for one in self._known.tenants.values() if one.tenant == tenant)
            return next((replace(one, key_id="batches") for one in present if not one.policy.disabled), None)
        for entry in self._known.keys.values():
            is_valid = entry.expires_at is None or now < entry.expires_at
            if entry.principal.tenant == tenant and is_valid and not entry.principal.policy.disabled:
                return replace(entry.principal, key_id="batches", scopes=None)
        return None

    async def load(self) -> None:
        """At the start. The follower waits meanwhile, so that this cannot overwrite what it has just reloaded."""
        async with self._database.read_between_writes() as session:
            self._known = await self._load(session)

    async def reload(self) -> None:
        """While the follower tells of another process's change."""
        async with self._database.read() as session:
            self._known = await self._load(session)

    async def follow(self, change: Change) -> None:
        """What this transaction leaves becomes visible with its commit."""
        await change.session.flush()
        known = await self._load(change.session)
        change.after_commit.append(lambda: setattr(self, "_known", known))

    async def _load(self, session: AsyncSession) -> _Known:
        live = (
            select(KeyRow, TenantRow)
            .outerjoin(TenantRow, TenantRow.id == KeyRow.tenant_id)
            .where(KeyRow.revoked_at.is_(None))
        )
        stored = {key.hmac: _entry(key, tenant) for key, tenant in await session.execute(live)}
        tenants = {row.id: _principal_of(row) for row in await session.scalars(select(TenantRow))}
        return _Known({**stored, **self.configured}, tenants)


def policy_of(row: TenantRow) -> Policy:
    return Policy(
        tuple(row.allowed_adapters),
        row.requests_per_minute,
        row.tokens_per_minute,
        row.max_concurrent_requests,
        row.kv_share,
        row.priority,  # type: ignore[arg-type]  # the table's constraint knows the three classes
        row.shared_prefixes,
        row.disabled,
        budgets_of(row),
    )


def budgets_of(row: TenantRow) -> tuple[Budget, ...]:
    units: tuple[BudgetUnit, ...] = ("tokens", "money")
    periods: tuple[BudgetPeriod, ...] = ("day", "month")
    amounts = {(unit, period): getattr(row, f"budget_{unit}_per_{period}") for unit in units for period in periods}
    return tuple(Budget(unit, period, amount) for (unit, period), amount in amounts.items() if amount is not None)


def _principal_of(row: TenantRow) -> Principal:
    return Principal("tenant", row.name, "", row.id, policy=policy_of(row))


def _entry(key: KeyRow, tenant: TenantRow | None) -> DirectoryEntry:
    principal = Principal(
        key.role,  # type: ignore[arg-type]  # the table's constraint knows the two roles
        tenant.name if tenant else None,
        key.id,
        key.tenant_id,
        None if key.scopes is None else frozenset(key.scopes),
        policy_of(tenant) if tenant else UNLIMITED,
    )
    return DirectoryEntry(key.hmac, principal, key.expires_at.timestamp() if key.expires_at else None)
