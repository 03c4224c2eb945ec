"""Reads snapshot entries from the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_adapters.kv_reach import KvReach
from multiflora_platform.registry.schemas.fields import Warmup
from multiflora_platform.registry.snapshot.snapshot import (
    AdapterEntry,
    AdapterShape,
    AliasEntry,
    RolloutEntry,
)
from multiflora_platform.storage.tables import (
    AdapterRow,
    AliasRow,
    RolloutRow,
    VersionRow,
)


async def load_entries(session: AsyncSession, served: Collection[str], name: str | None = None) -> list[AdapterEntry]:
    """Snapshot entries of all live adapters, or of one. served: digests of base models; versions made for another one
    cannot be served."""
    live = select(AdapterRow).where(AdapterRow.deleted_at.is_(None))
    if name is not None:
        live = live.where(AdapterRow.name == name)
    adapters = list(await session.scalars(live))
    ids = live.with_only_columns(AdapterRow.id).scalar_subquery()
    aliases: dict[int, list[AliasRow]] = {}
    for alias in await session.scalars(select(AliasRow).where(AliasRow.adapter_id.in_(ids)).order_by(AliasRow.name)):
        aliases.setdefault(alias.adapter_id, []).append(alias)
    rollouts: dict[tuple[int, str], RolloutEntry] = {}
    names = {adapter.id: adapter.name for adapter in adapters}
    for row in await session.scalars(
        select(RolloutRow).where(RolloutRow.adapter_id.in_(ids), RolloutRow.state == "running")
    ):
        rollouts[row.adapter_id, row.alias] = RolloutEntry(
            row.id, names[row.adapter_id], row.stable, row.candidate, row.percent, row.shadow_percent, row.bounds
        )
    digests: dict[int, dict[int, str]] = {}
    bases: dict[int, dict[int, str]] = {}
    shapes: dict[int, dict[int, AdapterShape]] = {}
    unserved: dict[int, dict[int, str]] = {}
    unserved_digests: dict[int, dict[int, str]] = {}
    columns = VersionRow.adapter_id, VersionRow.number, VersionRow.state, VersionRow.digest, VersionRow.base_digest
    versions = select(*columns, VersionRow.manifest, VersionRow.facts).where(
        VersionRow.adapter_id.in_(ids), VersionRow.purged_at.is_(None)
    )
    for adapter_id, number, state, digest, base_digest, manifest, facts in await session.execute(versions):
        if state == "ready" and base_digest in served:
            bases.setdefault(adapter_id, {})[number] = base_digest
            digests.setdefault(adapter_id, {})[number] = digest or ""
            shapes.setdefault(adapter_id, {})[number] = _shape(manifest or {}, facts or {})
            continue
        unserved.setdefault(adapter_id, {})[number] = state if state != "ready" else "of another base model"
        if digest is not None:
            unserved_digests.setdefault(adapter_id, {})[number] = digest
    return [
        _entry(
            adapter,
            aliases.get(adapter.id, ()),
            rollouts,
            digests.get(adapter.id, {}),
            bases.get(adapter.id, {}),
            shapes.get(adapter.id, {}),
            unserved.get(adapter.id, {}),
            unserved_digests.get(adapter.id, {}),
        )
        for adapter in adapters
    ]


def _shape(manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> AdapterShape:
    reach = KvReach(facts["kv_digest"], tuple(facts.get("invocation_tokens", ()))) if "kv_digest" in facts else None
    return AdapterShape(manifest.get("max_rank", 0), bool(manifest.get("config", {}).get("use_dora")), reach)


def _entry(
    row: AdapterRow,
    aliases: Iterable[AliasRow],
    rollouts: Mapping[tuple[int, str], RolloutEntry],
    digests: dict[int, str],
    bases: dict[int, str],
    shapes: dict[int, AdapterShape],
    unserved: dict[int, str],
    unserved_digests: dict[int, str],
) -> AdapterEntry:
    return AdapterEntry(
        id=row.id,
        name=row.name,
        description=row.description,
        tags=tuple(row.tags),
        demo_prompt=row.demo_prompt,
        warmup_prompts=tuple(msgspec.convert(row.warmup_prompts, list[Warmup])),
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
                alias.previous,
            )
            for alias in aliases
        },
        digests=digests,
        bases=bases,
        shapes=shapes,
        unserved=unserved,
        unserved_digests=unserved_digests,
    )
