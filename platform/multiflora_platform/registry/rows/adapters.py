"""Adapters as rows: made, changed, deleted, and read into snapshot entries. Does not know versions' making or HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.storage.database import Change
from multiflora_platform.registry.errors import AdapterExists, AdapterNotFound, InvalidRequest
from multiflora_platform.web.names import check_name
from multiflora_platform.registry.snapshot.snapshot import (
    AdapterEntry,
    AdapterShape,
    AliasEntry,
    RolloutEntry,
)
from multiflora_platform.registry.rows.superseded_rollouts import supersede_rollouts
from multiflora_platform.storage.tables import (
    Adapter,
    Alias,
    AliasMove,
    Rollout,
    Version,
)

MAX_TEXT = 16_384
MAX_TAGS = 64
MAX_WARMUP_PROMPTS = 16


@dataclass(frozen=True)
class AdapterFields:
    """What people say about an adapter; None leaves a field as it is, an empty one clears it."""

    description: str | None = None
    tags: Sequence[str] | None = None
    demo_prompt: str | None = None
    warmup_prompts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        for name in ("description", "demo_prompt"):
            check_text(getattr(self, name) or "", MAX_TEXT, f"/{name}")
        if len(self.warmup_prompts or ()) > MAX_WARMUP_PROMPTS:
            raise InvalidRequest(f"At most {MAX_WARMUP_PROMPTS} prompts warm up.", pointer="/warmup_prompts")
        for index, prompt in enumerate(self.warmup_prompts or ()):
            if not prompt:
                raise InvalidRequest("A prompt has at least one character.", pointer=f"/warmup_prompts/{index}")
            check_text(prompt, MAX_TEXT, f"/warmup_prompts/{index}")
        if len(self.tags or ()) > MAX_TAGS:
            raise InvalidRequest(f"An adapter has at most {MAX_TAGS} tags.", pointer="/tags")
        for index, tag in enumerate(self.tags or ()):
            if not tag:
                raise InvalidRequest("A tag has at least one character.", pointer=f"/tags/{index}")
            check_text(tag, 64, f"/tags/{index}")


def check_text(text: str, limit: int, pointer: str) -> None:
    if len(text) > limit:
        raise InvalidRequest(f"The text is longer than {limit} characters.", pointer=pointer)
    if "\0" in text:  # PostgreSQL holds no such text
        raise InvalidRequest("The text has a NUL character.", pointer=pointer)


async def create(change: Change, name: str, fields: AdapterFields, owner: str | None) -> Adapter:
    """Raises AdapterExists. owner: the tenant that may change it; None leaves it to admins."""
    check_name(name)
    if await _find(change.session, name) is not None:
        raise AdapterExists(
            f"An adapter named {name!r} exists; choose another name or add a version to it.", pointer="/name"
        )
    adapter = Adapter(
        name=name,
        description=fields.description or "",
        tags=list(dict.fromkeys(fields.tags or ())),
        demo_prompt=fields.demo_prompt or None,
        warmup_prompts=list(fields.warmup_prompts or ()),
        owner=owner,
        created_at=change.now,
        updated_at=change.now,
    )
    change.session.add(adapter)
    await change.session.flush()
    change.record("adapter.created", name, adapter=name)
    return adapter


async def amend(change: Change, name: str, fields: AdapterFields) -> Adapter:
    adapter = await require(change.session, name)
    changed = []
    if fields.description is not None:
        adapter.description = fields.description
        changed.append("description")
    if fields.demo_prompt is not None:
        adapter.demo_prompt = fields.demo_prompt or None
        changed.append("demo_prompt")
    if fields.warmup_prompts is not None:
        adapter.warmup_prompts = list(fields.warmup_prompts)
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
    for alias in await change.session.scalars(select(Alias.name).where(Alias.adapter_id == adapter.id)):
        change.session.add(
            AliasMove(adapter_id=adapter.id, alias=alias, target=None, actor=change.actor, at=change.now)
        )
    await change.session.execute(delete(Alias).where(Alias.adapter_id == adapter.id))
    change.record("adapter.deleted", name, adapter=name)
    digests = select(Version.digest).where(Version.adapter_id == adapter.id, Version.digest.is_not(None)).distinct()
    return [digest for digest in await change.session.scalars(digests) if digest]


async def require(session: AsyncSession, name: str) -> Adapter:
    """The live adapter's row; raises AdapterNotFound."""
    adapter = await _find(session, name)
    if adapter is None:
        raise AdapterNotFound(f"There is no adapter named {name[:80]!r}.")
    return adapter


async def _find(session: AsyncSession, name: str) -> Adapter | None:
    return await session.scalar(select(Adapter).where(Adapter.name == name, Adapter.deleted_at.is_(None)))


async def live_digests(session: AsyncSession) -> set[str]:
    """Digests of artifacts that must stay: those that a version of a live adapter names, unless it was refused.

    Versions that are being made count, and deleted ones until they are purged.
    """
    return {digest for digest in await session.scalars(_needed()) if digest}


async def is_needed(session: AsyncSession, digest: str) -> bool:
    """Whether the digest's artifact must stay."""
    return await session.scalar(_needed().where(Version.digest == digest).limit(1)) is not None


def _needed() -> Select[str | None]:
    return (
        select(Version.digest)
        .join(Adapter, Adapter.id == Version.adapter_id)
        .where(Adapter.deleted_at.is_(None), Version.digest.is_not(None), Version.state != "rejected")
    )


async def load_entries(session: AsyncSession, base_digest: str, name: str | None = None) -> list[AdapterEntry]:
    """Snapshot entries of all live adapters, or of one. Versions made for another base model cannot be served."""
    live = select(Adapter).where(Adapter.deleted_at.is_(None))
    if name is not None:
        live = live.where(Adapter.name == name)
    adapters = list(await session.scalars(live))
    ids = live.with_only_columns(Adapter.id).scalar_subquery()
    aliases: dict[int, list[Alias]] = {}
    for alias in await session.scalars(select(Alias).where(Alias.adapter_id.in_(ids)).order_by(Alias.name)):
        aliases.setdefault(alias.adapter_id, []).append(alias)
    rollouts: dict[tuple[int, str], RolloutEntry] = {}
    names = {adapter.id: adapter.name for adapter in adapters}
    for row in await session.scalars(select(Rollout).where(Rollout.adapter_id.in_(ids), Rollout.state == "running")):
        rollouts[row.adapter_id, row.alias] = RolloutEntry(
            row.id, names[row.adapter_id], row.stable, row.candidate, row.percent, row.shadow_percent, row.bounds
        )
    digests: dict[int, dict[int, str]] = {}
    shapes: dict[int, dict[int, AdapterShape]] = {}
    ready = select(Version.adapter_id, Version.number, Version.digest, Version.manifest).where(
        Version.adapter_id.in_(ids), Version.state == "ready", Version.base_digest == base_digest
    )
    for adapter_id, number, ready_digest, manifest in await session.execute(ready):
        digests.setdefault(adapter_id, {})[number] = ready_digest or ""
        shapes.setdefault(adapter_id, {})[number] = _shape(manifest or {})
    return [
        _entry(adapter, aliases.get(adapter.id, ()), rollouts, digests.get(adapter.id, {}), shapes.get(adapter.id, {}))
        for adapter in adapters
    ]


def _shape(manifest: Mapping[str, Any]) -> AdapterShape:
    return AdapterShape(manifest.get("max_rank", 0), bool(manifest.get("config", {}).get("use_dora")))


def _entry(
    row: Adapter,
    aliases: Iterable[Alias],
    rollouts: Mapping[tuple[int, str], RolloutEntry],
    digests: dict[int, str],
    shapes: dict[int, AdapterShape],
) -> AdapterEntry:
    return AdapterEntry(
        id=row.id,
        name=row.name,
        description=row.description,
        tags=tuple(row.tags),
        demo_prompt=row.demo_prompt,
        warmup_prompts=tuple(row.warmup_prompts),
        owner=row.owner,
        created_at=row.created_at,
        updated_at=row.updated_at,
        aliases={
            alias.name: AliasEntry(
                alias.name,
                alias.target,
                tuple(alias.layout),
                alias.revision,
                f"{row.id}/{alias.name}",
                alias.protected,
                rollouts.get((row.id, alias.name)),
            )
            for alias in aliases
        },
        digests=digests,
        shapes=shapes,
    )
