"""Tenants as rows: made, changed, listed. Knows no keys and no routes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.auth import account_answers
from multiflora_platform.auth.account_problems import TenantExists, TenantNotFound
from multiflora_platform.auth.directory import Directory, policy_of
from multiflora_platform.auth.policies import Policy
from multiflora_platform.auth.principals import Principal
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import TenantRow
from multiflora_platform.web.etags import UNCONDITIONAL, Precondition, etag_of
from multiflora_platform.web.names import check_name

_SHOWN = tuple(field for field in account_answers.Tenant.__struct_fields__ if field not in ("created_at", "etag"))


class Tenants:
    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory

    async def create(
        self, actor: str, name: str, precondition: Precondition = UNCONDITIONAL, **fields: Any
    ) -> account_answers.Tenant:
        """fields: of account_requests.NewTenant. Raises InvalidRequest, TenantExists."""
        check_name(name)

        async def work(change: Change) -> account_answers.Tenant:
            existing = await change.session.scalar(select(TenantRow).where(TenantRow.name == name))
            if existing is not None:
                precondition.check(f"Tenant {name!r}", _shown(existing).etag)
                raise TenantExists(f"A tenant named {name!r} exists.", pointer="/name")
            row = TenantRow(name=name, created_at=change.now, **fields)
            change.session.add(row)
            await change.session.flush()
            change.record("tenant.created", name, tenant=name, **fields)
            await self._directory.follow(change)
            return _shown(row)

        return await self._database.write(actor, work)

    async def amend(
        self, actor: str, name: str, precondition: Precondition = UNCONDITIONAL, **fields: Any
    ) -> account_answers.Tenant:
        """fields: of account_requests.TenantPatch; they hold from the next request on. Raises TenantNotFound."""

        async def work(change: Change) -> account_answers.Tenant:
            row = await require_tenant(change, name)
            precondition.check(f"Tenant {name!r}", _shown(row).etag)
            for field, value in fields.items():
                setattr(row, field, value)
            if any(field.startswith("budget_") for field in fields):
                row.budget_warned = {}  # another budget, another warning
            change.record("tenant.updated", name, tenant=name, **fields)
            await self._directory.follow(change)
            return _shown(row)

        return await self._database.write(actor, work)

    async def all(self) -> list[account_answers.Tenant]:
        async with self._database.read() as session:
            return [_shown(row) for row in await session.scalars(select(TenantRow).order_by(TenantRow.name))]

    async def policy(self, name: str) -> Policy:
        """Raises TenantNotFound."""
        async with self._database.read() as session:
            return policy_of(await self._row(session, name))

    async def principal(self, name: str) -> Principal:
        """Whose limits and budgets are the tenant's; it has no key. Raises TenantNotFound."""
        async with self._database.read() as session:
            row = await self._row(session, name)
        return Principal("tenant", name, "", row.id, policy=policy_of(row))

    async def one(self, name: str) -> account_answers.Tenant:
        """Raises TenantNotFound."""
        async with self._database.read() as session:
            return _shown(await self._row(session, name))

    async def _row(self, session: AsyncSession, name: str) -> TenantRow:
        row = await session.scalar(select(TenantRow).where(TenantRow.name == name))
        if row is None:
            raise TenantNotFound(f"There is no tenant named {name[:80]!r}.")
        return row


async def require_tenant(change: Change, name: str) -> TenantRow:
    """Raises TenantNotFound."""
    row = await change.session.scalar(select(TenantRow).where(TenantRow.name == name))
    if row is None:
        raise TenantNotFound(f"There is no tenant named {name[:80]!r}; POST /api/v1/tenants first.", pointer="/tenant")
    return row


def _shown(row: TenantRow) -> account_answers.Tenant:
    shown = {"created_at": row.created_at.isoformat(), **{field: getattr(row, field) for field in _SHOWN}}
    return account_answers.Tenant(**shown, etag=etag_of(shown))
