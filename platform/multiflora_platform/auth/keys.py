"""API keys and tenants: made, listed, revoked, and looked up on every request from memory. Does not know routes.

A key is `mf-` and 256 random bits; only its HMAC is kept: database and secret together do not give a key away.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from multiflora_platform.auth.principals import Principal, Role
from multiflora_platform.auth.secret import Secret
from multiflora_platform.registry.database import Change, Database
from multiflora_platform.registry.errors import InvalidRequest, KeyNotFound, TenantExists, TenantNotFound
from multiflora_platform.registry.names import check_name
from multiflora_platform.registry.tables import Key, Tenant

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 60.0
OPEN_PRINCIPAL = Principal("admin", None, "no-auth")


@dataclass(frozen=True)
class _Entry:
    hmac: str
    principal: Principal


class KeyStore:
    """Open with `KeyStore.open`."""

    def __init__(self, database: Database, secret: Secret, no_auth: bool) -> None:
        self._database = database
        self._secret = secret
        self._no_auth = no_auth
        self._configured: dict[str, _Entry] = {}
        self._entries: Mapping[str, _Entry] = {}
        self._used: dict[str, float] = {}
        self._flushed = time.monotonic()
        self._flushing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, database: Database, data_dir: Path, *, admin_keys: Sequence[str] = (), no_auth: bool = False
    ) -> KeyStore:
        """admin_keys: from the settings; never stored."""
        store = cls(database, await asyncio.to_thread(Secret.load, data_dir), no_auth)
        for number, key in enumerate(admin_keys, start=1):
            digest = store._hmac(key)
            store._configured[digest] = _Entry(digest, Principal("admin", None, f"api-key-{number}"))
        await store._reload()
        return store

    async def bootstrap(self) -> str | None:
        """An admin key where there is none at all, to be shown this once; otherwise None.

        Apart from `open`: a start that fails before it can show the key must not lock everybody out.
        """
        if self._no_auth or any(entry.principal.is_admin for entry in self._entries.values()):
            return None
        made = await self.create_key("system", name="first-start", role="admin", tenant=None)
        return str(made["key"])

    def authenticate(self, header: str | None) -> Principal | None:
        """header: `Bearer <key>`. None: no key, or one that is unknown or revoked."""
        if self._no_auth:
            return OPEN_PRINCIPAL
        scheme, _, key = (header or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return None
        digest = self._hmac(key)
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.hmac, digest):
            return None
        self._note_use(entry.principal.key_id)
        return entry.principal

    def cache_salt(self, principal: Principal) -> str:
        """Two requests may share cached KV only when this is equal: one for each tenant, one for all admins."""
        if self._no_auth:
            return "no-auth"
        who = "admin" if principal.tenant_id is None else f"tenant:{principal.tenant_id}"
        return self._secret.derive("cache-salt", who)

    async def create_key(self, actor: str, *, name: str, role: Role, tenant: str | None) -> dict[str, Any]:
        """The key's view and, this once, `key` itself. Raises TenantNotFound, InvalidRequest."""
        check_name(name)
        if (role == "tenant") != (tenant is not None):
            raise InvalidRequest("A key of role tenant names its tenant; an admin key names none.", pointer="/tenant")
        key = f"mf-{secrets.token_urlsafe(32)}"

        async def work(change: Change) -> dict[str, Any]:
            owner = await _tenant(change, tenant) if tenant is not None else None
            row = Key(
                id=f"key_{secrets.token_hex(8)}",
                hmac=self._hmac(key),
                prefix=key[:7],
                name=name,
                role=role,
                tenant_id=owner.id if owner else None,
                created_at=change.now,
            )
            change.session.add(row)
            await change.session.flush()
            change.record("key.created", row.id, key=row.id, name=name, role=role, tenant=tenant)
            await self._follow(change)
            return _key_view(row, tenant)

        return {**await self._database.write(actor, work), "key": key}

    async def revoke_key(self, actor: str, key_id: str) -> None:
        """At once, for every later request. Raises KeyNotFound; revoking again changes nothing."""

        async def work(change: Change) -> None:
            row = await change.session.get(Key, key_id)
            if row is None:
                raise KeyNotFound(f"There is no key {key_id[:40]!r}.")
            if row.revoked_at is None:
                row.revoked_at = change.now
                change.record("key.revoked", key_id, key=key_id)
                await change.session.flush()
                await self._follow(change)

        await self._database.write(actor, work)

    async def keys(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """All keys, or the one; oldest first; never the key itself."""
        query = select(Key, Tenant.name).outerjoin(Tenant, Tenant.id == Key.tenant_id).order_by(Key.created_at, Key.id)
        if key_id is not None:
            query = query.where(Key.id == key_id)
        async with self._database.read() as session:
            rows = [_key_view(row, tenant) for row, tenant in await session.execute(query)]
        if key_id is not None and not rows:
            raise KeyNotFound(f"There is no key {key_id[:40]!r}.")
        for row in rows:
            if row["id"] in self._used:
                row["last_used_at"] = datetime.fromtimestamp(self._used[row["id"]], UTC).isoformat()
        return rows

    async def create_tenant(self, actor: str, name: str) -> dict[str, Any]:
        check_name(name)

        async def work(change: Change) -> dict[str, Any]:
            if await change.session.scalar(select(Tenant).where(Tenant.name == name)) is not None:
                raise TenantExists(f"A tenant named {name!r} exists.", pointer="/name")
            row = Tenant(name=name, created_at=change.now)
            change.session.add(row)
            await change.session.flush()
            change.record("tenant.created", name, tenant=name)
            return _tenant_view(row)

        return await self._database.write(actor, work)

    async def tenants(self) -> list[dict[str, Any]]:
        async with self._database.read() as session:
            return [_tenant_view(row) for row in await session.scalars(select(Tenant).order_by(Tenant.name))]

    async def close(self) -> None:
        if self._flushing is not None:
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._flush()

    def _hmac(self, key: str) -> str:
        return self._secret.derive("api-key", key)

    async def _reload(self) -> None:
        async with self._database.read() as session:
            self._entries = await self._load(session)

    async def _follow(self, change: Change) -> None:
        entries = await self._load(change.session)
        change.after_commit.append(lambda: setattr(self, "_entries", entries))

    async def _load(self, session: Any) -> Mapping[str, _Entry]:
        query = select(Key, Tenant.name).outerjoin(Tenant, Tenant.id == Key.tenant_id).where(Key.revoked_at.is_(None))
        stored = {
            row.hmac: _Entry(row.hmac, Principal(row.role, tenant, row.id, row.tenant_id))
            for row, tenant in await session.execute(query)
        }
        return {**stored, **self._configured}

    def _note_use(self, key_id: str) -> None:
        self._used[key_id] = time.time()
        due = time.monotonic() - self._flushed > _FLUSH_SECONDS
        if due and (self._flushing is None or self._flushing.done()):
            self._flushed = time.monotonic()
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        """Write when keys were last used: once in a while, not on the request's path."""
        used, self._used = self._used, {}
        if not used:
            return

        async def work(change: Change) -> None:
            for row in await change.session.scalars(select(Key).where(Key.id.in_(used))):
                row.last_used_at = datetime.fromtimestamp(used[row.id], UTC)

        try:
            await self._database.write("system", work)
        except Exception as error:
            _log.warning("could not note when keys were used: %s", error)


async def _tenant(change: Change, name: str) -> Tenant:
    row = await change.session.scalar(select(Tenant).where(Tenant.name == name))
    if row is None:
        raise TenantNotFound(f"There is no tenant named {name[:80]!r}; POST /api/v1/tenants first.", pointer="/tenant")
    return row


def _tenant_view(row: Tenant) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "created_at": row.created_at.isoformat()}


def _key_view(row: Key, tenant: str | None) -> dict[str, Any]:
    moments = {name: getattr(row, name) for name in ("created_at", "revoked_at", "last_used_at")}
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "tenant": tenant,
        "prefix": row.prefix,
        **{name: moment.isoformat() if moment else None for name, moment in moments.items()},
    }
