"""Versions as rows: numbered, validated, ready or rejected. Does not know where files come from or how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_adapters.facts import AdapterFacts
from multiflora_adapters.manifest import AdapterManifest
from multiflora_adapters.validation import ValidationRow
from multiflora_platform.registry.errors import (
    NotDeleted,
    VersionInUse,
    VersionNotFound,
    VersionNotReady,
)
from multiflora_platform.registry.rows import aliases
from multiflora_platform.registry.schemas.version_metadata import (
    Lineage,
    VersionDetails,
    VersionPatch,
    labels,
)
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import (
    LARGEST_NUMBER,
    AdapterRow,
    AliasRow,
    ReportRow,
    VersionFileRow,
    VersionLabelRow,
    VersionRow,
)


async def begin(
    change: Change,
    adapter: AdapterRow,
    source: str,
    base_digest: str,
    details: VersionDetails,
    *,
    here: bool,
    digest: str | None = None,
    card: str | None = None,
) -> VersionRow:
    """A new number. here: the files are; otherwise they are still to be fetched."""
    adapter_id = adapter.id
    last = await change.session.scalar(select(func.max(VersionRow.number)).where(VersionRow.adapter_id == adapter_id))
    version = VersionRow(
        adapter_id=adapter_id,
        number=(last or 0) + 1,
        state="validating" if here else "pending",
        digest=digest,
        base_digest=base_digest,
        source=source,
        description=details.description,
        tags=list(dict.fromkeys(details.tags)),
        lineage=msgspec.to_builtins(details.lineage),
        card=card,
        evals=msgspec.to_builtins(details.evals),
        created_by=change.actor,
        created_at=change.now,
        updated_at=change.now,
    )
    change.session.add(version)
    await change.session.flush()
    label(change, version)
    change.record("version.created", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)
    return version


@dataclass(frozen=True)
class ValidatedVersion:
    """What validation, probe and evals found of a version that may be served."""

    manifest: AdapterManifest
    facts: AdapterFacts
    rows: Sequence[ValidationRow]
    evals: list[dict[str, Any]]


async def finish(change: Change, version_id: int, validated: ValidatedVersion, promote: bool) -> VersionRow:
    """Ready; the adapter's first ready version (or a promoted one) becomes its default."""
    manifest = validated.manifest
    version = await change.session.get_one(VersionRow, version_id)
    adapter = await change.session.get_one(AdapterRow, version.adapter_id)
    earlier = (
        select(VersionRow.id).where(VersionRow.adapter_id == version.adapter_id, VersionRow.state == "ready").limit(1)
    )
    is_first = await change.session.scalar(earlier) is None
    _settle(change, version, "ready", validated.rows)
    version.facts = msgspec.to_builtins(validated.facts)
    version.evals = validated.evals
    version.digest = manifest.digest
    version.manifest = msgspec.to_builtins(manifest)
    for name, file in manifest.files.items():
        change.session.add(VersionFileRow(version_id=version.id, name=name, sha256=file.sha256, size=file.size))
    await change.session.flush()
    target = f"{adapter.name}@{version.number}"
    change.record("version.ready", target, adapter=adapter.name, version=version.number, digest=manifest.digest)
    if promote or is_first:
        await aliases.make_default(change, adapter, version.number)
    return version


async def reject(
    change: Change, version_id: int, rows: Sequence[ValidationRow], evals: list[dict[str, Any]] | None = None
) -> VersionRow:
    """Rejected, with the rows that say why."""
    version = await change.session.get_one(VersionRow, version_id)
    _settle(change, version, "rejected", rows)
    if evals is not None:
        version.evals = evals
    adapter = await change.session.get_one(AdapterRow, version.adapter_id)
    change.record(
        "version.rejected",
        f"{adapter.name}@{version.number}",
        adapter=adapter.name,
        version=version.number,
        errors=[row.message for row in rows if row.severity == "error"],
    )
    return version


async def archive(change: Change, adapter: AdapterRow, version: VersionRow, rows: Sequence[ValidationRow]) -> None:
    """Never to be ready: its adapter is gone, or another version has its content."""
    _settle(change, version, "archived", rows)
    change.record("version.archived", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)


async def delete(change: Change, adapter: AdapterRow, version: VersionRow) -> None:
    """Out of service, kept until it is purged. Raises VersionInUse while an alias points to it."""
    if version.state not in ("ready", "rejected", "archived"):
        raise VersionNotReady(f"Version {version.number} is being made; cancel its job instead.")
    for alias in await change.session.scalars(select(AliasRow).where(AliasRow.adapter_id == adapter.id)):
        if version.number in aliases.shares_of(alias.target):
            raise VersionInUse(
                f"{adapter.name}@{alias.name} points to version {version.number}; move or delete the alias first."
            )
    if version.deleted_at is not None:
        return
    if version.state == "ready":
        version.state = "archived"
    version.deleted_at = version.updated_at = change.now
    target = f"{adapter.name}@{version.number}"
    change.record("version.deleted", target, adapter=adapter.name, version=version.number, digest=version.digest)


async def restore(change: Change, adapter: AdapterRow, version: VersionRow) -> None:
    """As it was before it was deleted. Raises NotDeleted."""
    if version.deleted_at is None:
        raise NotDeleted(f"Version {version.number} of {adapter.name!r} is not deleted.")
    version.deleted_at = None
    version.updated_at = change.now
    if version.manifest is not None:
        version.state = "ready"
    target = f"{adapter.name}@{version.number}"
    change.record("version.restored", target, adapter=adapter.name, version=version.number, digest=version.digest)


async def purge(change: Change, adapter: AdapterRow, version: VersionRow) -> None:
    """Only the number is left, so that it never means anything else. Raises NotDeleted."""
    if version.deleted_at is None:
        raise NotDeleted(f"Version {version.number} of {adapter.name!r} is not deleted; DELETE it first.")
    for table in (VersionFileRow, ReportRow, VersionLabelRow):
        await change.session.execute(sql_delete(table).where(table.version_id == version.id))
    target = f"{adapter.name}@{version.number}"
    change.record("version.purged", target, adapter=adapter.name, version=version.number, digest=version.digest)
    version.purged_at = version.updated_at = change.now
    version.state, version.digest, version.manifest, version.facts, version.card = "archived", None, None, None, None
    version.description, version.tags, version.lineage, version.evals = "", [], {}, []


async def amend(change: Change, adapter: AdapterRow, version: VersionRow, patch: VersionPatch) -> None:
    if patch.description is not msgspec.UNSET:
        version.description = patch.description
    if patch.tags is not msgspec.UNSET:
        version.tags = list(dict.fromkeys(patch.tags))
    if patch.lineage is not msgspec.UNSET:
        version.lineage = msgspec.to_builtins(patch.lineage)
    version.updated_at = change.now
    await change.session.execute(sql_delete(VersionLabelRow).where(VersionLabelRow.version_id == version.id))
    label(change, version)
    change.record("version.updated", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)


def label(change: Change, version: VersionRow) -> None:
    """What it is searched by, anew from its tags and lineage."""
    for kind, value in sorted(labels(version.tags, msgspec.convert(version.lineage, Lineage))):
        change.session.add(VersionLabelRow(version_id=version.id, kind=kind, value=value))


async def find_ready(session: AsyncSession, adapter_id: int, digest: str, base_digest: str) -> VersionRow | None:
    query = select(VersionRow).where(
        VersionRow.adapter_id == adapter_id,
        VersionRow.digest == digest,
        VersionRow.base_digest == base_digest,
        VersionRow.state == "ready",
    )
    return (await session.scalars(query.order_by(VersionRow.number).limit(1))).first()


async def of_id(session: AsyncSession, version_id: int) -> VersionRow:
    return await session.get_one(VersionRow, version_id)


async def require(session: AsyncSession, adapter_id: int, name: str, number: int) -> VersionRow:
    """Raises VersionNotFound, also for one that was purged."""
    query = select(VersionRow).where(
        VersionRow.adapter_id == adapter_id, VersionRow.number == min(number, LARGEST_NUMBER)
    )
    version = await session.scalar(query.where(VersionRow.purged_at.is_(None)))
    if version is None:
        raise VersionNotFound(f"Adapter {name!r} has no version {number}.")
    return version


def _settle(change: Change, version: VersionRow, state: str, rows: Sequence[ValidationRow]) -> None:
    version.state = state
    version.updated_at = change.now
    for position, row in enumerate(rows):
        change.session.add(
            ReportRow(
                version_id=version.id,
                position=position,
                check=row.check[:64],
                severity=row.severity,
                message=row.message,
                observed=row.observed,
                expected=row.expected,
                hint=row.hint,
            )
        )
