"""The rules of an adapter's row: made, changed, deleted; and which artifacts its versions still need.

Each function works inside a transaction that its caller began. Does not know how versions are made, or HTTP.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.errors import AdapterExists, AdapterNotFound
from multiflora_platform.registry.rows.superseded_rollouts import supersede_rollouts
from multiflora_platform.registry.schemas.fields import AdapterFields
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import (
    AdapterRow,
    AliasMoveRow,
    AliasRow,
    VersionRow,
)
from multiflora_platform.web.names import check_name


async def create(change: Change, name: str, fields: AdapterFields, owner: str | None) -> AdapterRow:
    """Raises AdapterExists. owner: the tenant that may change it; None leaves it to admins."""
    check_name(name)
    if await _find(change.session, name) is not None:
        raise AdapterExists(
            f"An adapter named {name!r} exists; choose another name or add a version to it.", pointer="/name"
        )
    adapter = AdapterRow(
        name=name,
        description=fields.description or "",
        tags=list(dict.fromkeys(fields.tags or ())),
        demo_prompt=fields.demo_prompt or None,
        warmup_prompts=msgspec.to_builtins(list(fields.warmup_prompts or ())),
        owner=owner,
        created_at=change.now,
        updated_at=change.now,
    )
    change.session.add(adapter)
    await change.session.flush()
    change.record("adapter.created", name, adapter=name)
    return adapter


async def amend(change: Change, name: str, fields: AdapterFields) -> AdapterRow:
    adapter = await require(change.session, name)
    changed = []
    if fields.description is not None:
        adapter.description = fields.description
        changed.append("description")
    if fields.demo_prompt is not None:
        adapter.demo_prompt = fields.demo_prompt or None
        changed.append("demo_prompt")
    if fields.warmup_prompts is not None:
        adapter.warmup_prompts = msgspec.to_builtins(list(fields.warmup_prompts))
        changed.append("warmup_prompts")
    if fields.tags is not None:
        adapter.tags = list(dict.fromkeys(fields.tags))
        changed.append("tags")
    adapter.updated_at = change.now
    change.record("adapter.updated", name, adapter=name, fields=changed)
    return adapter


async def remove(change: Change, name: str) -> list[str]:
    """The name is free again; returns the digests that this adapter's versions named."""
    adapter = await require(change.session, name)
    await supersede_rollouts(change, adapter)
    adapter.deleted_at = adapter.updated_at = change.now
    for alias in await change.session.scalars(select(AliasRow.name).where(AliasRow.adapter_id == adapter.id)):
        change.session.add(
            AliasMoveRow(adapter_id=adapter.id, alias=alias, target=None, actor=change.actor, at=change.now)
        )
    await change.session.execute(delete(AliasRow).where(AliasRow.adapter_id == adapter.id))
    change.record("adapter.deleted", name, adapter=name)
    digests = (
        select(VersionRow.digest).where(VersionRow.adapter_id == adapter.id, VersionRow.digest.is_not(None)).distinct()
    )
    return [digest for digest in await change.session.scalars(digests) if digest]


async def require(session: AsyncSession, name: str) -> AdapterRow:
    """The live adapter's row; raises AdapterNotFound."""
    adapter = await _find(session, name)
    if adapter is None:
        raise AdapterNotFound(f"There is no adapter named {name[:80]!r}.")
    return adapter


async def _find(session: AsyncSession, name: str) -> AdapterRow | None:
    return await session.scalar(select(AdapterRow).where(AdapterRow.name == name, AdapterRow.deleted_at.is_(None)))


async def live_digests(session: AsyncSession) -> set[str]:
    """Digests of artifacts that must stay: those that a version of a live adapter names, unless it was refused.

    Versions that are being made count, and deleted ones until they are purged.
    """
    return {digest for digest in await session.scalars(_needed()) if digest}


async def is_needed(session: AsyncSession, digest: str) -> bool:
    """Whether the digest's artifact must stay."""
    return await session.scalar(_needed().where(VersionRow.digest == digest).limit(1)) is not None


def _needed() -> Select[str | None]:
    return (
        select(VersionRow.digest)
        .join(AdapterRow, AdapterRow.id == VersionRow.adapter_id)
        .where(AdapterRow.deleted_at.is_(None), VersionRow.digest.is_not(None), VersionRow.state != "rejected")
    )
