"""API keys: made, listed, rotated, revoked, and looked up on every request from memory. Does not know routes.

A key is `mf-` and 256 random bits; only its HMAC is kept: database and secret together do not give a key away.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from sqlalchemy import select

from multiflora_platform.auth import account_answers
from multiflora_platform.auth.account_problems import KeyNotFound
from multiflora_platform.auth.directory import Directory, DirectoryEntry
from multiflora_platform.auth.principals import Principal, Role
from multiflora_platform.auth.scopes import Scope
from multiflora_platform.auth.secret import Secret
from multiflora_platform.auth.sessions import Sessions
from multiflora_platform.auth.tenants import Tenants, require_tenant
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.outbox_follower import Follower
from multiflora_platform.storage.tables import EventRow, KeyRow, TenantRow
from multiflora_platform.web.etags import UNCONDITIONAL, Precondition, etag_of
from multiflora_platform.web.names import check_label
from multiflora_platform.web.problems import InvalidRequest

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 60.0
# Of tenants whose requests come again and again; what is forgotten is derived anew.
_MOST_SALTS = 4096
# Of every request to a server without keys.
OPEN_PRINCIPAL = Principal("admin", None, "no-auth")
_STATE = tuple(
    field for field in account_answers.Key.__struct_fields__ if field not in ("tenant", "last_used_at", "etag")
)
# What a tenant's key can be narrowed to; the other scopes stand for what its role may not do.
TENANT_SCOPES = frozenset({"inference", "registry:read", "registry:write", "usage:read", "metrics"})


class KeyStore:
    """Open with `KeyStore.open`."""

    def __init__(self, database: Database, secret: Secret, no_auth: bool, provider: str | None = None) -> None:
        """no_auth: every request counts as an admin's. provider: as Sessions'."""
        self.secret = secret
        self._database = database
        self._directory = Directory(database)
        self.tenants = Tenants(database, self._directory)
        self.sessions = Sessions(database, secret, self._directory, provider)
        self._no_auth = no_auth
        self._derive_salt = lru_cache(maxsize=_MOST_SALTS)(partial(secret.derive, "cache-salt"))
        # Unix seconds of last uses that the database does not know yet, by key id.
        self._used: dict[str, float] = {}
        self._flushed = time.monotonic()
        self._flushing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        database: Database,
        follower: Follower,
        data_dir: Path,
        *,
        admin_keys: Sequence[str] = (),
        no_auth: bool = False,
        provider: str | None = None,
    ) -> KeyStore:
        """follower: has been started. admin_keys: from the settings; never stored. provider: as Sessions'."""
        store = cls(database, await asyncio.to_thread(Secret.load, data_dir), no_auth, provider)
        for number, key in enumerate(admin_keys, start=1):
            digest = store._hmac(key)
            store._directory.configured[digest] = DirectoryEntry(digest, Principal("admin", None, f"api-key-{number}"))
        # Before the keys are loaded: what another process changes from now on is either read or told by the follower.
        follower.subscribe(store._follow)
        follower.subscribe(store.sessions.follow)
        await store._directory.load()
        await store.sessions.load()
        return store

    async def _follow(self, events: Sequence[EventRow]) -> None:
        """Another process's events."""
        if any(event.type.startswith(("key.", "tenant.")) for event in events):
            await self._directory.reload()

    async def bootstrap(self) -> str | None:
        """An admin key where there is none at all, to be shown this once; otherwise None.

        Apart from `open`: a start that fails before it can show the key must not lock the operator out.
        """
        if self._no_auth or self._directory.has_admin:
            return None
        return (await self.create_key("system", name="first-start", role="admin", tenant=None)).key

    def authenticate(self, header: str | None) -> Principal | None:
        """header: `Bearer <key>`. None: no key, or one that is unknown, expired or revoked."""
        if self._no_auth:
            return OPEN_PRINCIPAL
        scheme, _, key = (header or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return None
        principal = self._directory.find(self._hmac(key))
        if principal is not None:
            self._note_use(principal.key_id)
        return principal

    def principal_of(self, tenant: str | None) -> Principal | None:
        """The principal of the server's own work for a tenant (None: an admin); None when the tenant may no more."""
        if self._no_auth:
            return OPEN_PRINCIPAL
        return Principal("admin", None, "batches") if tenant is None else self._of_tenant(tenant)

    def _of_tenant(self, tenant: str) -> Principal | None:
        """A tenant whose people need no key may work without one."""
        return self._directory.of_tenant(tenant, needs_key=not self.sessions.has_people)

    def sign_in(self, key: str) -> tuple[Principal, str] | None:
        """The key's principal, and the value of a session's cookie; None: the key is not good."""
        principal = self.authenticate(f"Bearer {key}")
        return None if principal is None else (principal, self.sessions.open(self._hmac(key.strip())))

    def cache_salt(self, principal: Principal) -> str:
        """Two requests may share cached KV only when this is equal: one for each tenant, one for all admins, and one
        for all tenants together that opted in to share."""
        if principal.policy.shared_prefixes:
            return self._derive_salt("shared")
        return self.cache_owner(principal)

    def cache_owner(self, principal: Principal) -> str:
        """The owner of the cache's share that its blocks count towards."""
        if self._no_auth:
            return "no-auth"
        who = "admin" if principal.tenant_id is None else f"tenant:{principal.tenant_id}"
        return self._derive_salt(who)

    def cache_owners(self) -> dict[str, str | None]:
        """The tenant's name by `cache_owner`, None for admins; of all that have keys."""
        return {self.cache_owner(principal): principal.tenant for principal in self._directory.principals()}

    async def create_key(
        self,
        actor: str,
        *,
        name: str,
        role: Role,
        tenant: str | None,
        scopes: Sequence[Scope] | None = None,
        expires_at: datetime | None = None,
    ) -> account_answers.NewlyMadeKey:
        """The key's view and, this once, `key` itself. Raises TenantNotFound, InvalidRequest."""
        check_label(name)
        _check(role, tenant, scopes, expires_at)

        async def work(change: Change) -> account_answers.NewlyMadeKey:
            owner = await require_tenant(change, tenant) if tenant is not None else None
            row = KeyRow(
                name=name,
                role=role,
                tenant_id=owner.id if owner else None,
                scopes=None if scopes is None else sorted(set(scopes)),
                expires_at=expires_at,
            )
            made = await self._add(change, row, tenant)
            change.record("key.created", row.id, key=row.id, name=name, role=role, tenant=tenant, scopes=row.scopes)
            return made

        return await self._database.write(actor, work)

    async def rotate_key(
        self, actor: str, key_id: str, overlap_seconds: int, precondition: Precondition = UNCONDITIONAL
    ) -> account_answers.NewlyMadeKey:
        """A new key like the old one, which ends after the overlap. Raises KeyNotFound, InvalidRequest."""

        async def work(change: Change) -> account_answers.NewlyMadeKey:
            old, tenant = await _require(change, key_id, precondition)
            if old.revoked_at is not None:
                raise InvalidRequest(f"Key {key_id} is revoked; make a new one.")
            row = KeyRow(
                name=old.name,
                role=old.role,
                tenant_id=old.tenant_id,
                scopes=old.scopes,
                expires_at=old.expires_at,
                rotated_from=old.id,
            )
            end = change.now + timedelta(seconds=overlap_seconds)
            old.expires_at = min(old.expires_at or end, end)
            made = await self._add(change, row, tenant)
            change.record("key.rotated", old.id, key=old.id, by=row.id, until=old.expires_at.isoformat())
            return made

        return await self._database.write(actor, work)

    async def revoke_key(self, actor: str, key_id: str, precondition: Precondition = UNCONDITIONAL) -> None:
        """At once, for every later request. Raises KeyNotFound; revoking again changes nothing."""

        async def work(change: Change) -> None:
            row, _ = await _require(change, key_id, precondition)
            if row.revoked_at is None:
                row.revoked_at = change.now
                change.record("key.revoked", key_id, key=key_id)
                await self._directory.follow(change)

        await self._database.write(actor, work)

    async def keys(self, key_id: str | None = None, tenant: str | None = None) -> list[account_answers.Key]:
        """All keys, the one, or a tenant's; oldest first; never the key itself. Raises KeyNotFound."""
        query = (
            select(KeyRow, TenantRow.name)
            .outerjoin(TenantRow, TenantRow.id == KeyRow.tenant_id)
            .order_by(KeyRow.created_at, KeyRow.id)
        )
        if key_id is not None:
            query = query.where(KeyRow.id == key_id)
        if tenant is not None:
            query = query.where(TenantRow.name == tenant)
        async with self._database.read() as session:
            rows = [_shown(row, owner, self._last_use(row)) for row, owner in await session.execute(query)]
        if key_id is not None and not rows:
            raise _no_key(key_id)
        return rows

    async def close(self) -> None:
        if self._flushing is not None:
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._flush()

    def _hmac(self, key: str) -> str:
        return self.secret.derive("api-key", key)

    async def _add(self, change: Change, row: KeyRow, tenant: str | None) -> account_answers.NewlyMadeKey:
        key = f"mf-{secrets.token_urlsafe(32)}"
        row.id, row.hmac, row.prefix = f"key_{secrets.token_hex(8)}", self._hmac(key), key[:7]
        row.created_at = change.now
        change.session.add(row)
        await self._directory.follow(change)
        return account_answers.NewlyMadeKey(key=key, **asdict(_shown(row, tenant, None)))

    def _last_use(self, row: KeyRow) -> datetime | None:
        """As of now; the database learns of it once in a while."""
        used = self._used.get(row.id)
        return row.last_used_at if used is None else datetime.fromtimestamp(used, UTC)

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
            for row in await change.session.scalars(select(KeyRow).where(KeyRow.id.in_(used))):
                row.last_used_at = datetime.fromtimestamp(used[row.id], UTC)

        try:
            await self._database.write("system", work)
        except Exception as error:
            _log.warning("could not note when keys were used: %s", error)


def _check(role: Role, tenant: str | None, scopes: Sequence[Scope] | None, expires_at: datetime | None) -> None:
    if (role == "tenant") != (tenant is not None):
        raise InvalidRequest("A key of role tenant names its tenant; an admin key names none.", pointer="/tenant")
    if role == "tenant" and (beyond := sorted(set(scopes or ()) - TENANT_SCOPES)):
        raise InvalidRequest(f"A tenant's key cannot have the scope {beyond[0]!r}.", pointer="/scopes")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidRequest("expires_at has passed already.", pointer="/expires_at")


async def _require(change: Change, key_id: str, precondition: Precondition) -> tuple[KeyRow, str | None]:
    """The key and its tenant's name. Raises KeyNotFound, and what the precondition does."""
    row = await change.session.get(KeyRow, key_id)
    if row is None:
        raise _no_key(key_id)
    tenant = await change.session.get(TenantRow, row.tenant_id) if row.tenant_id is not None else None
    owner = tenant.name if tenant else None
    precondition.check(f"Key {key_id}", _shown(row, owner, row.last_used_at).etag)
    return row, owner


def _no_key(key_id: str) -> KeyNotFound:
    return KeyNotFound(f"There is no key {key_id[:40]!r}.")


def _shown(row: KeyRow, tenant: str | None, last_use: datetime | None) -> account_answers.Key:
    shown: dict[str, Any] = {"tenant": tenant, **{field: getattr(row, field) for field in _STATE}}
    shown |= {name: moment.isoformat() for name, moment in shown.items() if isinstance(moment, datetime)}
    observed: dict[str, Any] = {"last_used_at": last_use.isoformat() if last_use else None}
    return account_answers.Key(**shown, **observed, etag=etag_of(shown, observed))
